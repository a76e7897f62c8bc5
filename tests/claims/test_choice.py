"""A sparse FFN's fall-back, energy of bytes inside the chip, decoding beyond the tables, and studies over a number."""

import numpy as np
import pytest

from sparsesim.closed_form import estimate
from sparsesim.cost.breakdown import at_context
from sparsesim.cost.kernel import CostModel, cost_model
from sparsesim.report.plots.axis import axis_of, meetings
from sparsesim.run import Run
from sparsesim.scenario import Hardware, Scenario
from sparsesim.study.cases import cases
from sparsesim.system import gpu_of, systems
from sparsesim.work import Copy, Gemm, Pointwise, SparseFfn


@pytest.fixture(scope="module")
def h100() -> CostModel:
    return cost_model(gpu_of(Hardware(name="h100-sxm")))


def _ffn(nnz: np.ndarray, form: str) -> SparseFfn:
    return SparseFfn(tokens=16_384.0, d_model=2048.0, d_ff=5632.0, nnz=nnz, format=form)


def test_auto_is_sparse_at_few_active_neurons_and_dense_at_many(h100: CostModel) -> None:
    """Measured at 16,384 tokens (Zipf): 1.09x at 108 active neurons with the hottest dense, dense far ahead at 282."""
    nnz = np.array([8.0, 29.0, 70.0, 108.0, 282.0, 911.0])
    auto, dense = (h100.cost(_ffn(nnz, form)).time_s for form in ("auto", "dense"))
    assert (auto[:3] < 0.95 * dense[:3]).all()
    assert (auto[4:] == dense[4:]).all()
    assert (auto <= dense).all()
    # measured, us: 863 at 29 (hot_cold), 1713 dense
    assert float(auto[1]) == pytest.approx(863e-6, rel=0.05)
    assert float(dense[1]) == pytest.approx(1713e-6, rel=0.05)


def test_the_dense_fall_back_is_its_products_one_after_the_other(h100: CostModel) -> None:
    parts = (
        Gemm(m=16_384.0, n=2 * 5632.0, k=2048.0),
        Pointwise(kind="relu_mul", tokens=16_384.0, width=5632.0),
        Gemm(m=16_384.0, n=2048.0, k=5632.0),
    )
    dense = h100.cost(_ffn(np.array([2000.0]), "auto"))
    assert dense.time_s[0] == pytest.approx(sum(float(h100.cost(op).time_s) for op in parts))
    assert dense.energy_j[0] == pytest.approx(sum(float(h100.cost(op).energy_j) for op in parts))
    assert pytest.approx(float(dense.time_s[0]), rel=0.05) == 1713e-6  # measured, dense_fused of twell_ffn.csv


def test_a_byte_through_the_multiprocessors_costs_the_same_in_a_read_and_in_a_copy(h100: CostModel) -> None:
    """Measured on the same board: a read draws 594 to 604 W at 3.2 TB/s, a copy 493 W at 2.4 TB/s."""
    size = 524_288.0 * 4096 * 2
    read, copy = h100.cost(Pointwise(kind="read", tokens=524_288.0, width=4096.0)), h100.cost(Copy(bytes=size / 2))
    assert float(read.compute_j) == pytest.approx(size * h100.power.sram_j_per_byte)
    assert float(copy.compute_j) == pytest.approx(size * h100.power.sram_j_per_byte)
    assert float(read.energy_j / read.time_s) == pytest.approx(599, rel=0.06)
    assert float(copy.energy_j / copy.time_s) == pytest.approx(493, rel=0.06)


def test_decoding_goes_on_linearly_beyond_the_models_own_context() -> None:
    values = {
        "model": "llama-3.2-1b",
        "deployment": {"hardware": "h100-sxm"},
        "workload": {"kind": "static", "batch": 1, "context": "1024 tok"},
    }
    steps = systems(Scenario.of(values))["all"].steps
    near, far, further = (at_context(steps, 1, tokens)[0] for tokens in (131_072, 262_144, 393_216))
    assert further - far == pytest.approx(far - near)
    assert far > 1.3 * near


def _runs(axes: dict[str, list[object]]) -> list[Run]:
    values = {
        "model": "llama-3.2-1b",
        "deployment": {"hardware": "h100-sxm"},
        "workload": {"kind": "static", "batch": 1, "context": "1024 tok"},
        "study": {"kind": "compare", "axes": axes},
    }
    return [estimate(case.scenario).titled(case.name) for case in cases(Scenario.of(values))]


def test_a_study_over_a_number_has_an_axis_and_a_line_for_each_other_value() -> None:
    axis = axis_of(
        _runs({"model": ["llama-3.2-1b", "qwen2.5-0.5b"], "workload.context": ["1 tok", "64 tok", "512 tok"]})
    )
    assert axis is not None
    assert axis.path == "workload.context"
    assert {name: [x for x, _ in points] for name, points in axis.lines.items()} == {
        "llama-3.2-1b": [1.0, 64.0, 512.0],
        "qwen2.5-0.5b": [1.0, 64.0, 512.0],
    }


def test_two_values_or_words_alone_are_no_axis() -> None:
    assert axis_of(_runs({"workload.batch": [1, 2]})) is None
    assert axis_of(_runs({"model": ["llama-3.2-1b", "qwen2.5-0.5b", "llama-3.2-3b"]})) is None


def test_meetings_are_exact_for_power_laws() -> None:
    x = (1.0, 10.0, 300.0, 1000.0)
    ((at, value),) = meetings({v: v for v in x}, {v: 10 * v**0.5 for v in x})
    assert (at, value) == pytest.approx((100.0, 100.0))
