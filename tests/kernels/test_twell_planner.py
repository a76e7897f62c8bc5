"""The planner's break-even agrees with published measurements and its choice is never the slower path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sparsesim.kernels.twell.planner import FfnCosts, NnzProfile, choose, fit_costs, plan, profile


def test_break_even_of_the_public_kernels_on_an_h100() -> None:
    # Public kernels, M 16384, us: independent 1061, 1148, 1322 at nnz 24, 29, 38 against dense 1838: break-even was
    # put at 58-68. Zipf 1016 at 29 and 4978 at 282 against 1800: 75-83.
    independent = fit_costs(16384, 1838e-6, [(24, 1061e-6), (29, 1148e-6), (38, 1322e-6)])
    zipf = fit_costs(16384, 1800e-6, [(29, 1016e-6), (282, 4978e-6)])
    assert 58 <= independent.break_even_nnz <= 68
    assert 75 <= zipf.break_even_nnz <= 83


def test_a_line_through_two_points_by_hand() -> None:
    costs = fit_costs(100, 10.0, [(10, 4.0), (20, 6.0)], overflow_s_per_row=0.5)
    assert costs.sparse_fixed_s == pytest.approx(2.0)
    assert costs.break_even_nnz == pytest.approx(40.0)
    assert costs.sparse_s(30.0, overflow_share=0.02) == pytest.approx(2.0 + 6.0 + 1.0)


def test_batch_mean_quantile_by_hand() -> None:
    found = NnzProfile(np.array([0.0, 10.0, 20.0, 30.0]), capacity=25)
    assert found.batch_mean_quantile(2, 1.0) == 25.0
    assert found.batch_mean_quantile(2, 0.5) == 15.0
    assert found.batch_mean_quantile(100, 0.5) == 15.0
    assert found.overflow_share == 0.25


@given(
    fixed=st.floats(0.1, 2.0),
    slope=st.floats(1e-3, 0.1),
    nnz=st.lists(st.floats(0.0, 200.0), min_size=8, max_size=40),
    tokens=st.integers(1, 8),
)
def test_the_chosen_path_is_never_slower_than_dense_on_the_calibrated_batches(
    fixed: float, slope: float, nnz: list[float], tokens: int
) -> None:
    costs, found = FfnCosts(tokens, 1.0, fixed, slope), NnzProfile(np.array(nnz), capacity=1000)
    if choose(costs, found, quantile=1.0) == "sparse":
        means = [np.mean(nnz[i : i + tokens]) for i in range(len(nnz) - tokens + 1)]
        assert all(costs.sparse_s(float(mean)) <= 1.0 + 1e-9 for mean in means)


def test_small_batches_fear_dense_stretches_that_large_ones_average_out() -> None:
    burst = np.r_[np.full(90, 5.0), np.full(10, 200.0)]
    costs = [FfnCosts(tokens, 1.0, 0.4, 0.01) for tokens in (100, 10)]  # break-even at nnz 60
    chosen = plan(costs, {"layer 0": NnzProfile(burst, capacity=1000)})
    assert chosen.tokens == (10, 100)
    assert chosen.path("layer 0", 10) == "dense"
    assert chosen.path("layer 0", 5000) == "sparse"
    with pytest.raises(ValueError, match="no layer 'layer 1', has layer 0"):
        chosen.path("layer 1", 1)


def test_rows_past_the_capacity_can_turn_the_choice() -> None:
    costs = FfnCosts(10, 1.0, 0.4, 0.01, overflow_s_per_row=0.5)
    nnz = np.r_[np.full(9, 1.0), 100.0]
    assert choose(costs, NnzProfile(nnz, capacity=1000)) == "sparse"
    assert choose(costs, NnzProfile(nnz, capacity=64)) == "dense"


def test_profile_counts_the_positives_of_each_token() -> None:
    gates = [torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.0, -1.0]]), torch.tensor([[1.0, 1.0, 1.0]])]
    assert profile(gates, capacity=2).row_nnz.tolist() == [2.0, 0.0, 3.0]


def test_costs_that_fall_with_nnz_are_refused() -> None:
    with pytest.raises(ValueError, match="gets faster with nnz"):
        fit_costs(1, 1.0, [(10, 2.0), (20, 1.0)])
    with pytest.raises(ValueError, match="at least two values"):
        fit_costs(1, 1.0, [(10, 2.0), (10, 2.1)])


BENCHMARK = Path(__file__).parents[2] / "calibration" / "data" / "h100-sxm" / "twell_ffn.csv"


def measured_cases() -> list[tuple[int, str, list[tuple[float, float, float]]]]:
    """(tokens, pattern, [(nnz, dense seconds, sparse seconds)]) of the shapes measured at many nnz on an H100."""
    rows = pd.read_csv(BENCHMARK, comment="#")
    cases = []
    for (tokens, pattern), group in rows.groupby(["tokens", "pattern"]):
        times = group.pivot_table(index="nnz", columns="kernel", values="time_us") * 1e-6
        dense = times[["dense_eager", "dense_fused"]].min(axis=1)
        sparse = times["hot_cold" if pattern == "zipf" else "twell"]
        if len(times) >= 6:
            points = list(zip(times.index, dense, sparse, strict=True))
            cases.append((int(tokens), str(pattern), [tuple(map(float, point)) for point in points]))
    return cases


@pytest.mark.parametrize(("tokens", "pattern", "points"), measured_cases(), ids=lambda v: str(v)[:12])
def test_the_choice_is_never_slower_than_dense_by_more_than_three_percent_as_measured(
    tokens: int, pattern: str, points: list[tuple[float, float, float]]
) -> None:
    gained = 0
    for place, (nnz, dense_s, sparse_s) in enumerate(points):
        seen = [(n, s) for i, (n, _, s) in enumerate(points) if i != place and n < 300]
        found = NnzProfile(np.full(2 * tokens, nnz), capacity=1024)
        chosen = choose(fit_costs(tokens, dense_s, seen, overflow_s_per_row=0.24e-6), found)
        gained += chosen == "sparse"
        assert (sparse_s if chosen == "sparse" else dense_s) <= 1.03 * dense_s
    assert gained >= 4
