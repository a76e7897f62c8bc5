"""Inter-token gaps in closed form against gaps written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesim.metrics.latency import finished
from sparsesim.metrics.tokens import Gaps, token_gaps
from sparsesim.sim.records import Records

rows = st.lists(
    st.tuples(st.integers(1, 5), st.floats(1e-3, 1e-1), st.floats(0, 1e-4), st.integers(1, 30)), min_size=1, max_size=8
)


def written_out(gaps: Gaps) -> np.ndarray:
    parts = [
        np.repeat(a + b * np.arange(m), int(w))
        for w, a, b, m in zip(gaps.weight, gaps.first_s, gaps.slope_s, gaps.count.astype(int), strict=True)
    ]
    return np.sort(np.concatenate(parts))


@given(rows)
@settings(max_examples=60, deadline=None)
def test_closed_forms_equal_the_gaps_written_out(table: list[tuple[int, float, float, int]]) -> None:
    gaps = Gaps(*(np.array(column, float) for column in zip(*table, strict=True)))
    every = written_out(gaps)
    assert gaps.number == len(every)
    assert gaps.total_s == pytest.approx(every.sum(), rel=1e-12)
    assert gaps.distribution()["std"] == pytest.approx(every.std(), rel=1e-6, abs=1e-12)
    for percent in (1, 50, 90, 99, 100):
        assert gaps.quantile(percent / 100) == pytest.approx(
            np.percentile(every, percent, method="inverted_cdf"), rel=1e-9
        )


@pytest.mark.parametrize("run", ["calm", "crowded", "static", "prompts_first", "disaggregated"])
def test_the_gaps_of_a_run_add_up_to_the_time_from_first_to_last_token(
    run: str, request: pytest.FixtureRequest
) -> None:
    records: Records = request.getfixturevalue(run)
    done = finished(records.requests)
    assert done.all()
    gaps = token_gaps(records)
    between = records.requests["finish_s"] - records.requests["first_token_s"]
    assert gaps.number == pytest.approx((records.requests["output_tok"] - 1).sum(), abs=1e-6)
    assert gaps.total_s == pytest.approx(between.sum(), rel=1e-9)


def test_a_preempted_request_has_a_long_gap(calm: Records, crowded: Records) -> None:
    steps = crowded.steps
    longest_step = np.max(steps["first_s"] + np.maximum(steps["slope_s"], 0) * (steps["iterations"] - 1))
    assert token_gaps(crowded).quantile(1.0) > 2 * longest_step
    assert token_gaps(calm).quantile(1.0) == pytest.approx(calm.steps["first_s"][calm.steps["decode"] > 0].max())
