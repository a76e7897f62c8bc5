"""The interconnect as scenarios see it: shipped ones with their expected figures, options that act, bad input."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsesim.closed_form import estimate
from sparsesim.errors import InputError
from sparsesim.run import Run
from sparsesim.scenario import Scenario
from sparsesim.simulation import TIMELINE, detailed_steps, simulate
from sparsesim.study.cases import cases
from sparsesim.system import single_pool
from sparsesim.workload import generate

LAYERS, TOKEN_B = 58, 7168 * (1 + 4 / 128) + 16 + 7168 * 2 + 16  # DeepSeek-V3: MoE layers; dispatched and combined
NIC_B_PER_S = 50e9
FIXED = {"kind": "fixed", "prompt": "500 tok", "output": "60 tok"}


@cache
def shipped(name: str) -> dict[str, Run]:
    return {case.name: estimate(case.scenario) for case in cases(Scenario.load(name))}


def step_s(run: Run) -> float:
    return float(run.summary["step_s"])


def routed(run: Run) -> float:
    """Seconds of dispatch and combine on one device."""
    table = run.tables["ops"]
    return float(np.asarray(table["time_s"])[np.isin(table["part"], ["moe.dispatch", "moe.combine"])].sum())


def share(run: Run) -> float:
    return routed(run) / float(np.sum(run.tables["ops"]["time_s"]))


def scenario(**changes: Any) -> Scenario:
    deployment = {"hardware": "h100-sxm", "dp": 8, "ep": 8, **changes.pop("deployment", {})}
    workload = {"arrivals": {"kind": "poisson", "rate": "40 /s"}, "lengths": FIXED, "requests": 60}
    return Scenario.of({"model": "qwen3-30b-a3b", "deployment": deployment, "workload": workload, **changes})


def static(batch: int, **changes: Any) -> float:
    workload = {"kind": "static", "batch": batch, "context": "2000 tok", **changes.pop("workload", {})}
    return step_s(estimate(scenario(workload=workload, **changes)))


def test_expert_parallelism_scales_flat_when_even_and_not_when_skewed() -> None:
    runs = shipped("ep-scaling")
    sizes = [n for n in runs if n.endswith("uniform") and "placement" not in n]
    assert [len(runs), len(sizes)] == [32, 8]
    even = {int(n.split()[0][3:]): step_s(runs[n]) for n in sizes}
    assert even[64] < 1.15 * even[8]
    assert even[1024] > 1.5 * even[256]  # every expert on four ranks, each of which gets its tokens
    for ranks in (16, 32, 64):
        at = next(runs[n] for n in sizes if n.startswith(f"dp={ranks} "))
        copies = 128 * 8 * (1 - 8 / ranks)  # that leave the node, a rank and layer
        least = LAYERS * copies * TOKEN_B / NIC_B_PER_S
        assert least < routed(at) < 1.6 * least + LAYERS * 2 * 60e-6


def test_redundant_experts_take_back_what_skew_costs() -> None:
    runs = shipped("ep-scaling")
    names = {"plain": "dp=64 ep=64 batch=8192", "eplb": "dp=64 ep=64 placement=replicated (redundant: 64) batch=8192"}
    even, skewed = (step_s(runs[f"{names['plain']} expert_load={load}"]) for load in ("uniform", "zipf:0.6"))
    eplb = step_s(runs[f"{names['eplb']} expert_load=zipf:0.6"])
    assert skewed > 1.5 * even
    assert eplb < 1.03 * even


def test_96_gpus_serve_deepseek_v3_from_288_slots() -> None:
    chosen = [single_pool(case.scenario) for case in cases(Scenario.load("deepseek-v3-96xh100"))]
    slots = [(s.pool.devices, (256 + s.setting.redundant) // s.setting.ep) for s in chosen]
    assert slots == [(24, 12), (72, 4), (32, 9)]
    held = [s.model.device_weight_bytes(s.setting) for s in chosen]
    one = 58 * 3 * 7168 * 2048 * (1 + 1 / 4096)  # an expert of every layer: fp8 with its scales
    assert held[0] - held[1] == pytest.approx(8 * one, rel=1e-3)
    assert held[2] - held[1] == pytest.approx(5 * one, rel=1e-3)
    assert chosen[1].memory.kv_tokens / 72 > 128 * 1024  # 64 sequences a rank of 2,048 tokens and more


def test_steps_of_the_96_gpus_lie_between_their_bounds() -> None:
    prefill, decode, wide = shipped("deepseek-v3-96xh100").values()
    flop = 2 * 37e9 * 8 * 2048  # active parameters, tokens a rank
    for run in (prefill, wide):
        assert flop / 1979e12 < step_s(run) < 4 * flop / 1979e12
    nic = LAYERS * 256 * 8 * (64 / 72) * TOKEN_B / NIC_B_PER_S  # copies to the eight other nodes
    assert nic < step_s(decode) < 2.5 * nic


def test_what_if_interconnects_rank_as_they_must() -> None:
    runs = shipped("interconnect-what-if")

    def at(topology: str, phase: str) -> float:
        return step_s(next(r for n, r in runs.items() if f"topology={topology} phase={phase}" in n))

    for phase in ("decode", "prefill"):
        base = next(r for n, r in runs.items() if f"topology=h100-cluster phase={phase}" in n)
        saved = step_s(base) - at("h100-cluster-2x-nic", phase)
        assert 0.25 * routed(base) < saved <= 0.52 * routed(base)  # at most half of what the NICs take
        assert at("h100-cluster-4to1", phase) > 1.5 * step_s(base)
        assert at("nvl72", phase) < at("gb200-islands", phase) / 1.5


def test_the_all_to_all_tax_grows_with_batch_ranks_and_skew() -> None:
    runs = shipped("all-to-all-tax")

    def of(ranks: int, batch: int, load: str = "uniform") -> Run:
        return runs[f"dp={ranks} ep={ranks} batch={batch} expert_load={load}"]

    assert share(of(8, 512)) < share(of(32, 2048)) < share(of(64, 4096))
    assert share(of(64, 512)) < share(of(64, 4096)) < share(of(64, 16384))
    assert share(of(64, 4096)) < share(of(64, 4096, "zipf:0.4")) < share(of(64, 4096, "zipf:0.8"))
    energy = of(64, 4096).summary["energy_by_component_j"]
    copies = 4096 * 8 * LAYERS * TOKEN_B
    joules = copies * (7 / 64 * 80e-12 + 56 / 64 * 1200e-12)  # 10 pJ/bit in the node, 150 pJ/bit between nodes
    assert energy["link"] == pytest.approx(joules, rel=0.02)


@pytest.mark.parametrize(
    ("deployment", "load"),
    [
        ({}, "uniform"),
        ({}, "zipf:0.8"),
        ({"tp": 4, "dp": 1, "ep": 1}, "uniform"),
        ({"dp": 16, "ep": 16}, "zipf:0.6"),
        ({"tp": 4, "dp": 1, "ep": 1, "topology": "nvlink-island"}, "uniform"),
    ],
)
def test_op_detail_agrees_where_nothing_contends(deployment: dict[str, Any], load: str) -> None:
    asked = scenario(deployment=deployment, expert_load=load)
    detailed = detailed_steps(single_pool(asked), generate(asked.workload, 0, 0, asked.folder), asked.simulation)
    for phase, tokens in (("decode", 1), ("decode", 48), ("decode", 200), ("prefill", 500), ("prefill", 4096)):
        assert detailed.ratio(phase, tokens) == pytest.approx(1.0, abs=0.02)  # type: ignore[arg-type]


def test_op_detail_runs_a_scenario_and_keeps_its_timeline(tmp_path: Path) -> None:
    plain = simulate(scenario())
    detailed = simulate(scenario(simulation={"detail": "op"}))
    assert detailed.summary["tpot_s"]["mean"] == pytest.approx(plain.summary["tpot_s"]["mean"], rel=0.02)
    events = json.loads((detailed.write(tmp_path / "run") / TIMELINE).read_text())["traceEvents"]
    assert {event["pid"] for event in events} == set(range(8))
    assert {"moe.dispatch", "moe.experts", "moe.combine"} <= {event["name"] for event in events}


def disturbed(**disturbances: Any) -> float:
    """How much longer a decode step of 64 sequences a rank takes."""
    asked = scenario(simulation={"detail": "op", "disturbances": disturbances})
    detailed = detailed_steps(single_pool(asked), generate(asked.workload, 0, 0, asked.folder), asked.simulation)
    return detailed.ratio("decode", 64)


def test_a_slow_rank_jitter_and_a_slow_link_hold_everybody_up() -> None:
    """All wait for a rank twice as slow, but for its exchanges; of 8 log-normal factors the largest is 1 + 1.42 sigma.

    Kernels between two exchanges average out in part, so that jitter costs less than that.
    """
    assert 1.6 < disturbed(slow_ranks={3: 2.0}) < 2.0
    assert 1.03 < disturbed(jitter=0.1) < 1.142
    assert disturbed(slow_links=[{"between": ["gpu2", "switch0"], "factor": 0.01}]) > 1.2
    assert disturbed(slow_links=[{"between": ["gpu2", "switch0"], "factor": 1.0}]) == pytest.approx(1.0, abs=1e-3)


def test_disturbances_of_what_is_not_there_are_named() -> None:
    with pytest.raises(InputError, match="gpu9"):
        disturbed(slow_links=[{"between": ["gpu9", "switch0"], "factor": 0.5}])
    with pytest.raises(InputError, match="gpu1"):
        disturbed(lost_links=[["gpu1", "switch0"]])  # the only way to it
    with pytest.raises(InputError, match="rank 8"):
        disturbed(slow_ranks={8: 2.0})
    with pytest.raises(InputError, match=r"simulation.*only detail: op tells apart"):
        scenario(simulation={"disturbances": {"jitter": 0.1}})


def test_two_halves_do_not_interleave_perfectly_op_by_op() -> None:
    asked = scenario(deployment={"overlap": {"two_batch": True}})
    detailed = detailed_steps(single_pool(asked), generate(asked.workload, 0, 0, asked.folder), asked.simulation)
    assert 1.0 < detailed.ratio("decode", 128) < 1.3


def test_two_batch_overlap_wins_at_large_batches_and_loses_at_small_ones() -> None:
    wide = {"dp": 32, "ep": 32}
    both = {**wide, "overlap": {"two_batch": True}}
    assert static(32 * 256, deployment=both) < 0.9 * static(32 * 256, deployment=wide)
    assert static(32 * 2, deployment=both) > 1.05 * static(32 * 2, deployment=wide)
    prefill = {"workload": {"phase": "prefill"}}
    assert static(128, deployment=both, **prefill) < 0.9 * static(128, deployment=wide, **prefill)


def test_shared_experts_hide_behind_the_dispatch_and_no_more() -> None:
    deployment = {"hardware": "h200-sxm", "dp": 32, "ep": 32}
    whole, hidden = (
        static(32 * 128, model="deepseek-v3", deployment={**deployment, "overlap": {"shared_experts": asked}})
        for asked in (False, True)
    )
    workload = {"kind": "static", "batch": 32 * 128, "context": "2000 tok"}
    table = estimate(scenario(model="deepseek-v3", deployment=deployment, workload=workload)).tables["ops"]
    parts, seconds = np.asarray(table["part"]), np.asarray(table["time_s"])
    shared = seconds[np.char.startswith(parts.astype(str), "moe.shared")].sum()
    assert 0.5 * shared < whole - hidden < 1.3 * shared  # the engine's kernels are up to 1.3 times as slow as measured


WRONG = [
    ({"deployment": {"dp": 72, "ep": 72}}, r"deployment.*128 experts.*72"),
    ({"deployment": {"dp": 72, "ep": 72, "placement": {"kind": "replicated", "redundant": 3}}}, "128 experts"),
    ({"deployment": {"topology": "nvl73"}}, r"deployment.topology.*unknown topology 'nvl73'.*nvl72"),
    ({"deployment": {"placement": "balance"}}, r"deployment.placement.*did you mean balanced"),
    ({"deployment": {"topology": "torus-4x4x4"}}, "'torus' has no islands"),
    ({"deployment": {"dp": 16, "ep": 16, "topology": "nvlink-island"}}, "16 devices of a replica on a topology of 8"),
    ({"deployment": {"dp": 12, "ep": 12, "topology": "h100-cluster"}, "model": "mixtral-8x7b"}, "8 experts"),
    ({"deployment": {"dp": 8, "ep": 3}}, "ep 3 does not divide"),
    ({"deployment": {"dp": 1, "ep": 1, "placement": "balanced"}}, "spreads no experts over ranks"),
    ({"deployment": {"dp": 1, "ep": 1, "topology": "nvl72"}}, "nothing to link"),
    ({"deployment": {"overlap": {"shared_experts": True}}}, "no shared experts beside a dispatch"),
    ({"deployment": {"dp": 1, "ep": 1, "overlap": {"two_batch": True}}}, "no communication to hide"),
    ({"expert_load": "zipff:1"}, r"expert_load.*zipf"),
    ({"expert_load": "zipf:x"}, r"expert_load"),
    ({"deployment": {"topology": {"kind": "nvlink_island", "gpus": 8, "link": "0 GB/s", "link_latency": "1 us",
                                  "link_energy": "10 pJ/bit"}}}, "link"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "match"), WRONG)
def test_what_is_wrong_is_named(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(InputError, match=match):
        single_pool(scenario(**changes))


def test_op_detail_says_what_it_cannot_run() -> None:
    with pytest.raises(InputError, match="an estimate is a closed form"):
        estimate(scenario(simulation={"detail": "op"}))
    for deployment in ({"dp": 1, "ep": 1}, {"pp": 2}):
        with pytest.raises(InputError, match=r"simulation.detail"):
            simulate(scenario(deployment=deployment, simulation={"detail": "op"}))


def test_a_load_without_experts_is_told() -> None:
    deployment, workload = {"dp": 1, "ep": 1}, {"kind": "static", "batch": 4, "context": "100 tok"}
    dense = scenario(model="qwen3-8b", deployment=deployment, expert_load="zipf:0.8", workload=workload)
    assert "no layer has experts, which would be loaded zipf:exponent=0.8" in estimate(dense).manifest["assumptions"]


def test_a_topology_can_be_written_out_and_is_read_back() -> None:
    island = {
        "kind": "nvlink_island",
        "gpus": 8,
        "link": "200 GB/s",
        "link_latency": "1 us",
        "link_energy": "10 pJ/bit",
    }
    slow = scenario(deployment={"topology": island})
    assert single_pool(slow).costs.chip.link_bytes_per_s == pytest.approx(200e9)
    again = Scenario.of(slow.model_dump(mode="json"))
    assert single_pool(again).costs.chip == single_pool(slow).costs.chip
    assert static(4096, deployment={"topology": island}) > static(4096)
