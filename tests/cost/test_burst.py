"""The burst cap holds for a kernel by itself, the steady one for the mean over a step."""

from __future__ import annotations

import pytest

from sparsesim.cost.accumulate import Overhead, finished_one, price, totals
from sparsesim.cost.kernel import CostModel, cost_model
from sparsesim.hardware.engine import load_engine
from sparsesim.hardware.profile import load_device
from sparsesim.work import Gemm, Pointwise, SparseFfn, Task

GATE = Gemm(m=131_072.0, n=5632.0, k=2048.0)
PASSES = Pointwise(kind="rotate", tokens=131_072.0, width=2048.0)


@pytest.fixture(scope="module")
def h100() -> CostModel:
    return cost_model(load_device("h100-sxm"))


def step_s(costs: CostModel, *tasks: Task) -> float:
    engine = load_engine("plain")
    return finished_one(totals(price(tasks, costs)).tolist(), Overhead(0.0, 0.0, 0.0, True), engine, costs.power)[0]


def test_large_products_are_throttled_in_their_own_burst_and_small_ones_are_not(h100: CostModel) -> None:
    large, small = h100.cost(GATE), h100.cost(Gemm(m=16.0, n=5632.0, k=2048.0))
    assert 0.7 < float(large.full_clock_s / large.time_s) < 0.9
    at_1980_mhz = 132 * 4096 * 1.98e9  # FLOP/s of 132 multiprocessors, 4096 a cycle each
    assert GATE.flop() / float(large.full_clock_s) < at_1980_mhz
    assert float(small.throttled_s) == 0.0
    assert float(h100.cost(PASSES).throttled_s) == 0.0


def test_a_product_among_passes_is_faster_than_in_a_burst_of_its_own(h100: CostModel) -> None:
    """Measured in an eager layer: 3.84 ms instead of 4.03."""
    burst, full = (float(getattr(h100.cost(GATE), name)) for name in ("time_s", "full_clock_s"))
    passes = Task("passes", PASSES, 4.0)
    assert full <= step_s(h100, Task("gate", GATE), passes) - step_s(h100, passes) < burst


def test_a_step_of_products_alone_is_their_sustained_time(h100: CostModel) -> None:
    sustained = h100.cost(Gemm(m=131_072.0, n=5632.0, k=2048.0, regime="sustained"))
    assert step_s(h100, Task("gate", GATE, 10.0)) / 10 == pytest.approx(float(sustained.time_s), rel=1e-3)
    assert float(sustained.throttled_s) == 0.0


def test_only_the_gate_product_of_a_sparse_ffn_is_throttled(h100: CostModel) -> None:
    """The rows that it gathers draw less than the burst cap."""
    sparse = h100.cost(
        SparseFfn(tokens=131_072.0, d_model=2048.0, d_ff=5632.0, nnz=29.0, pattern="zipf", format="twell")
    )
    gate = h100.cost(GATE)
    assert 0.0 < float(sparse.throttled_s) == pytest.approx(float(gate.throttled_s), rel=0.5)
    assert float(sparse.throttled_s) < 0.5 * float(sparse.time_s)


def test_weights_cost_energy_on_their_way_into_a_product(h100: CostModel) -> None:
    """At one token of 2 FLOP a weight their transport outweighs the arithmetic, which has one FLOP a byte."""
    cost = h100.cost(Gemm(m=1.0, n=28_672.0, k=4096.0))
    weights = 2.0 * 28_672 * 4096
    assert float(cost.operand_bytes) == weights
    assert weights * h100.power.operand_j_per_byte > 5 * float(cost.flop) * h100.power.flop_energy("bf16")
    assert float(cost.energy_j / cost.time_s) == pytest.approx(519, rel=0.08)  # watts, measured twice: 517 and 522
