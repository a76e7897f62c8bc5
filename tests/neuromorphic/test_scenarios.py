"""The scenarios: each runs, the figures of the issue come out of them, and what chips cannot do is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsesim.closed_form import estimate
from sparsesim.cost.neuromorphic.claims import figure, markdown, published_ratios
from sparsesim.errors import InputError
from sparsesim.loading import data_root
from sparsesim.run import Run
from sparsesim.scenario import Scenario
from sparsesim.study.cases import cases

FOLDER = data_root() / "scenarios" / "neuromorphic"


def runs(name: str) -> list[tuple[dict[str, Any], Run]]:
    return [(case.set, estimate(case.scenario)) for case in cases(Scenario.load(FOLDER / f"{name}.yaml"))]


ONCE = [path for path in sorted(FOLDER.glob("*.yaml")) if path.stem != "loihi2-queues"]  # has a test of its own


@pytest.mark.parametrize("path", ONCE, ids=lambda p: p.stem)
def test_every_scenario_answers(path: Path) -> None:
    for case in cases(Scenario.load(path)):
        summary = estimate(case.scenario).summary
        assert summary["step_s"] > 0
        assert summary["energy_j"] == pytest.approx(sum(summary["energy_by_component_j"].values()))


def test_published_model_and_own_events_stand_side_by_side() -> None:
    for name, tokens, energy in (("loihi2-prefill", "lo2_mmf_sparse_pre_tput_500", 1.06e-3),
                                 ("loihi2-generate", "lo2_mmf_sparse_gen_tput_500", 75.65e-3)):  # fmt: skip
        summary = runs(name)[-1][1].summary
        assert summary["published"]["tok_per_s"] == pytest.approx(figure(tokens), rel=0.01)
        assert summary["published"]["constant_power_j_per_tok"] == pytest.approx(energy, rel=0.01)
        assert summary["tok_per_s"] < summary["published"]["tok_per_s"]


def test_dense_case_has_speed_up_one_in_both() -> None:
    dense = runs("loihi2-generate")[0][1].summary
    assert dense["speed_up"] == dense["published"]["speed_up"] == 1.0


def test_a_prompt_counts_the_filling_of_the_pipeline() -> None:
    summary = runs("loihi2-prefill")[-1][1].summary
    assert summary["step_s"] == pytest.approx((499 + 24 * 5) / summary["tok_per_s"])


def test_reference_code_on_an_h100_is_slower_than_24_chips_and_bound_by_its_host() -> None:
    found = {str(case["deployment"]): run for case, run in runs("matmulfree-everywhere-generate")}
    reference = next(run for key, run in found.items() if "matmulfree-reference" in key)
    chips = next(run for key, run in found.items() if "loihi2" in key)
    assert reference.summary["tok_per_s"] == pytest.approx(figure("lo2_mmf_h100_gen_tput_500"), rel=0.05)
    assert reference.summary["bound"]["decode"]["host"] > 0.9
    assert reference.summary["tok_per_s"] < chips.summary["tok_per_s"]


def test_the_advantage_ends_with_batching_and_with_long_prompts() -> None:
    """24 chips take 76 mJ a generated token at best and cannot batch; a board's energy a token falls with the batch."""
    energy = [run.summary["j_per_tok"] for _, run in runs("batching")]
    assert energy == sorted(energy, reverse=True)
    chips = runs("loihi2-generate")[-1][1].summary["published"]["j_per_tok"]
    assert energy[-1] < chips / 5
    prefill = {
        (case["workload.context"], "loihi2" in str(case["deployment"])): run.summary["tok_per_s"]
        for case, run in runs("matmulfree-everywhere-prefill")
        if "loihi2" in str(case["deployment"]) or "matmulfree-reference" in str(case["deployment"])
    }
    assert prefill["500 tok", True] > prefill["500 tok", False]
    assert prefill["8000 tok", True] < prefill["8000 tok", False]


def test_layers_table_gives_the_load_of_each() -> None:
    layers = runs("loihi2-prefill")[-1][1].tables["layers"]
    assert list(layers["first_chip"]) == list(range(24))
    assert (layers["mean_core_s"] <= layers["core_s"]).all()


def test_northpole_answers_with_bounds_above_what_was_published() -> None:
    ((_, run),) = runs("northpole-bounds")
    assert run.summary["is_bound"]
    assert run.summary["tok_per_s"] > figure("np_tput")
    assert run.summary["power_w"] > figure("np_power")


def test_every_published_ratio_carries_its_conditions() -> None:
    found = published_ratios()
    assert len(found) == 5 * 2 * 4 * 2
    assert all(r.batch and r.subject_kind in ("measured", "projected") and r.baseline_kind for r in found)
    assert "| 37.0x | throughput | prefill | 500 tok | 1 against an unstated batch |" in markdown(found)


def scenario(**changes: Any) -> Scenario:
    values: dict[str, Any] = {
        "model": "mmfreelm-370m",
        "deployment": {"hardware": "loihi2"},
        "workload": {"kind": "static", "phase": "decode", "batch": 1, "context": "500 tok"},
        "densities": "mmfreelm-370m-lambda2",
    }
    return Scenario.of({k: v for k, v in {**values, **changes}.items() if v is not None})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"densities": None}, r"densities: missing.*mmfreelm-370m-lambda1, mmfreelm-370m-lambda2"),
        ({"deployment": {"hardware": "loihi2", "tp": 2}}, r"deployment\.tp: has no meaning on loihi2"),
        ({"power": {"cap": "10 W"}}, r"power\.cap: has no meaning on loihi2 \(it has no power cap\)"),
        ({"deployment": {"hardware": {"name": "loihi2", "mode": "15 W"}}}, r"hardware\.mode: has no meaning on loihi2"),
        ({"sparsity": {"kind": "constant", "density": 0.1}}, r"sparsity: has no meaning on loihi2 \(name densities"),
        ({"deployment": {"hardware": "northpole"}}, r"densities: northpole multiplies zeros"),
        ({"expert_load": "uniform"}, r"expert_load: has no meaning on loihi2 \(it runs no experts"),
        (
            {"workload": {"kind": "static", "phase": "decode", "batch": 8, "context": "500 tok"}},
            r"batch 8: loihi2 holds 1 sequence",
        ),
        (
            {"workload": {"arrivals": {"kind": "poisson", "rate": "1 /s"}, "requests": 10,
                          "lengths": {"kind": "fixed", "prompt": "10 tok", "output": "10 tok"}}},
            r"workload\.kind: loihi2 is costed on a fixed batch only",
        ),
        (
            {"deployment": {"hardware": "northpole"},
             "workload": {"kind": "static", "phase": "decode", "batch": 64, "context": "500 tok"}},
            r"northpole has bounds for decoding only \(phase decode, batch 1 to 28\)",
        ),
    ],
)  # fmt: skip
def test_what_chips_cannot_do_is_said(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        estimate(scenario(**changes))


def test_detail_op_simulates_the_messages_beside_the_closed_form() -> None:
    summary = runs("loihi2-queues")[0][1].summary
    simulated = summary["simulated"]
    assert simulated["tok_per_s"] == pytest.approx(summary["tok_per_s"], rel=0.02)
    assert 0.8 * simulated["tok_per_s"] < simulated["tok_per_s_drawn"] < simulated["tok_per_s"]
    assert simulated["longest_queue"] > 0


def test_wider_weights_take_more_synapses_and_chips() -> None:
    """8-bit synapses chained in pairs for 16 bits: two chips a layer instead of one."""
    wide = scenario(
        precision={"weights": "bf16", "activations": "bf16"}, deployment={"hardware": {"name": "loihi2", "chips": 48}}
    )
    assert estimate(wide).summary["chips"] == 48
