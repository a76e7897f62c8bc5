"""Published figures of the threshold-sparsified MatMul-free model, from its published inputs (arXiv:2608.30439)."""

from __future__ import annotations

import pytest

from sparsesim.cost.neuromorphic import NeuromorphicEstimate, load_densities, neuromorphic_estimate
from sparsesim.cost.neuromorphic.claims import claims, figure, published_rows, ratios, select
from sparsesim.cost.neuromorphic.published import additive_speed_up, constant_power_energy, speed_up
from sparsesim.cost.neuromorphic.stages import stages_of, total_macs
from sparsesim.hardware.device.neuromorphic import Neuromorphic
from sparsesim.hardware.profile import load_device
from sparsesim.model import load_model


def loihi2() -> Neuromorphic:
    device = load_device("loihi2")
    assert isinstance(device, Neuromorphic)
    return device


def sparse(phase: str, method: str = "published") -> NeuromorphicEstimate:
    densities = load_densities("mmfreelm-370m-lambda2")
    return neuromorphic_estimate(load_model("mmfreelm-370m"), loihi2(), phase, densities, method=method)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "row", "tolerance"),
    [
        ("mmfreelm-370m-silu", "sp_macs_base", 0.01),
        ("mmfreelm-370m-relu", "sp_macs_relu", 0.01),
        ("mmfreelm-370m-drelu", "sp_macs_drelu", 0.013),  # the table's own rounding: 266.3M from its columns
        ("mmfreelm-370m-lambda1", "sp_macs_l1", 0.04),  # published 118M, 122M from its columns
        ("mmfreelm-2.7b-silu", "sp_macs_27b", 0.01),
        ("mmfreelm-2.7b-lambda1", "sp_macs_27b_l1", 0.01),
    ],
)
def test_effective_macs_follow_from_the_published_densities(name: str, row: str, tolerance: float) -> None:
    densities = load_densities(name)
    active, _ = total_macs(stages_of(load_model(densities.model), densities, "prefill", head=True))
    assert active / 1e6 == pytest.approx(figure(row), rel=tolerance)


def test_lambda_2_sparsity_is_80_percent_and_76_with_the_head() -> None:
    densities, model = load_densities("mmfreelm-370m-lambda2"), load_model("mmfreelm-370m")
    without = total_macs(stages_of(model, densities, "prefill"))
    with_head = total_macs(stages_of(model, densities, "prefill", head=True))
    assert 100 * (1 - without[0] / without[1]) == pytest.approx(80.0, abs=0.1)
    assert 100 * (1 - with_head[0] / with_head[1]) == pytest.approx(76.2, abs=0.1)


def test_the_papers_95_million_contradicts_its_own_sparsity() -> None:
    """Its Table II (76.2 % sparse) leaves 81M of 341M multiply-adds, its Table III says 95M."""
    densities, model = load_densities("mmfreelm-370m-lambda2"), load_model("mmfreelm-370m")
    active, dense = total_macs(stages_of(model, densities, "prefill", head=True))
    assert active / 1e6 == pytest.approx(81.1, abs=0.1)
    assert active == pytest.approx(dense * (1 - 0.762), rel=0.002)
    assert figure("sp_macs_l2") / (active / 1e6) > 1.15


def test_published_speed_ups_by_hand() -> None:
    assert speed_up(0.31, 0.61) == pytest.approx(3.5, rel=0.01)
    assert speed_up(0.20, 0.67) == pytest.approx(5.353, abs=0.001)
    assert speed_up(0.1983, 0.67) == pytest.approx(5.4, rel=0.001)


def test_speed_ups_do_not_multiply_when_messages_keep_their_own_time() -> None:
    assert additive_speed_up(0.31, 0.61) == pytest.approx(1 / (0.8 * 0.31 + 0.2 * 0.61))
    assert additive_speed_up(0.31, 0.61) < speed_up(0.31, 0.61)
    assert additive_speed_up(1.0, 1.0) == speed_up(1.0, 1.0) == 1.0


def test_sparse_throughput_is_the_published_projection() -> None:
    assert sparse("prefill").tok_per_s == pytest.approx(figure("lo2_mmf_sparse_pre_tput_500"), rel=0.01)
    assert sparse("generate").tok_per_s == pytest.approx(figure("lo2_mmf_sparse_gen_tput_500"), rel=0.01)


def test_energy_with_constant_power_and_with_static_power_and_events() -> None:
    prefill, generate = sparse("prefill"), sparse("generate")
    assert prefill.constant_power_j * 1e3 == pytest.approx(1.06, rel=0.01)
    assert generate.constant_power_j * 1e3 == pytest.approx(75.65, rel=0.001)
    assert prefill.j_per_token * 1e3 == pytest.approx(0.98, rel=0.01)
    assert generate.j_per_token * 1e3 == pytest.approx(75.68, rel=0.01)


def test_constant_power_means_energy_falls_as_throughput_rises() -> None:
    assert constant_power_energy(0.405, 5.4) == pytest.approx(0.075)


def test_events_alone_give_less_than_the_published_product() -> None:
    """The slowest core is that of the densest projection, and messages do not shrink with multiply-adds."""
    for phase in ("prefill", "generate"):
        assert sparse(phase, "events").speed_up < sparse(phase).speed_up


def test_dense_estimate_is_the_measurement_it_was_fitted_to() -> None:
    densities = load_densities("mmfreelm-370m-silu")
    for phase, rate, energy in (("prefill", "pre_tput", "pre_mj"), ("generate", "gen_tput", "gen_mj")):
        dense = neuromorphic_estimate(load_model("mmfreelm-370m"), loihi2(), phase, densities)
        assert dense.tok_per_s == pytest.approx(figure(f"lo2_mmf_dense_{rate}_500"), rel=1e-3)
        assert dense.j_per_token * 1e3 == pytest.approx(figure(f"lo2_mmf_dense_{energy}_500"), rel=1e-3)
        assert dense.kind == "fitted"
        assert sparse(phase).kind == "projected"


def test_static_power_dominates_generate() -> None:
    """41.5 tokens/s x 405 mJ = 16.8 W, of which the events make 0.06 W: energy per event alone is wrong by 10x."""
    densities = load_densities("mmfreelm-370m-silu")
    dense = neuromorphic_estimate(load_model("mmfreelm-370m"), loihi2(), "generate", densities)
    assert dense.power_w == pytest.approx(16.8, rel=0.01)
    assert dense.energy_j["static"] > 10 * (dense.j_per_token - dense.energy_j["static"])


def test_ratios_against_the_edge_gpu_depend_on_phase_and_length() -> None:
    """37x and 16x hold for a prompt of 500 tokens only."""
    table = claims(published_rows())
    found = ratios(
        select(table, "MMFreeLM-370M sparse", "Loihi 2 x24"), select(table, "Qwen2-500M", "Jetson Orin Nano")
    )
    value = {(r.quantity, r.phase, r.length_tok): r.value for r in found}
    by_hand = {
        ("throughput", "prefill", 500): 23200 / 627,
        ("energy per token", "prefill", 500): 17.9 / 1.1,
        ("throughput", "generate", 500): 224.1 / 13.4,
        ("energy per token", "generate", 500): 791 / 75.0,
        ("throughput", "prefill", 8000): 23200 / 3861,
        ("energy per token", "prefill", 8000): 4.4 / 1.1,
    }
    for case, ratio in by_hand.items():
        assert value[case] == pytest.approx(ratio, rel=1e-9), case
    assert len(found) == 16
    assert {(r.subject_kind, r.baseline_kind) for r in found} == {("projected", "measured")}
    assert {r.batch for r in found} == {"1 against an unstated batch"}


def test_long_prefill_on_the_gpu_ends_the_advantage_over_the_h100() -> None:
    table = claims(published_rows())
    loihi = select(table, "MMFreeLM-370M sparse", "Loihi 2 x24")
    found = ratios(loihi, select(table, "MMFreeLM-370M dense", "H100"))
    rate = {r.length_tok: r.value for r in found if r.phase == "prefill" and r.quantity == "throughput"}
    assert rate[500] > 2.0
    assert rate[8000] < 0.5
