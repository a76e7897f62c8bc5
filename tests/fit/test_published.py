"""Published servers, models left out of the fit: the bars, and the suite's results frozen."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from sparsesim.study.published import Judged, published_suite, table

FROZEN = Path(__file__).parent / "published.json"
POINT = 1.0
"""Percentage points a group may move without a word in the changelog."""


@pytest.fixture(scope="module")
def rows() -> list[Judged]:
    return published_suite()[0]


def errors(rows: Sequence[Judged], quantity: str, group: str = "H100") -> np.ndarray:
    return np.array([abs(r.ratio - 1) for r in rows if r.quantity == quantity and group in r.group])


def test_inter_token_latency(rows: list[Judged]) -> None:
    found = errors(rows, "median inter-token latency")
    assert len(found) == 72
    assert np.median(found) <= 0.12
    assert np.quantile(found, 0.9) <= 0.30


def test_energy_per_token(rows: list[Judged]) -> None:
    assert errors(rows, "energy per token").mean() <= 0.15


def test_maximum_load(rows: list[Judged]) -> None:
    assert np.median(errors(rows, "output rate", "maximum load")) <= 0.15


def test_intervals_hold_what_they_say(rows: list[Judged]) -> None:
    inside = np.mean([row.inside for row in rows])
    assert 0.80 <= inside <= 0.97
    assert np.median([np.expm1(row.half_width) for row in rows]) <= 0.30


def test_mixture_of_experts_against_dense(rows: list[Judged]) -> None:
    """Energy of Qwen3-30B-A3B over Qwen3-32B's at the batches both were measured at, on one and two GPUs."""
    energy = {
        (*r.group.split(" on "), float(r.name.rsplit(" ", 1)[1])): r
        for r in rows
        if r.quantity == "energy per token" and r.group.endswith(" H100")
    }
    pairs = []
    for (model, gpus, batch), row in energy.items():
        dense = [r for (m, g, b), r in energy.items() if (m, g) == ("qwen3-32b", gpus) and abs(b - batch) < 0.5]
        if model == "qwen3-30b-a3b" and dense:
            pairs.append((row.predicted / dense[0].predicted) / (row.measured / dense[0].measured))
    assert len(pairs) >= 10
    assert np.mean(np.abs(np.array(pairs) - 1)) <= 0.15
    assert abs(np.mean(pairs) - 1) <= 0.10


def test_no_group_moves_without_a_word(rows: list[Judged]) -> None:
    """A change that moves a group by more than a point belongs into the changelog; then write the file anew."""
    frozen = json.loads(FROZEN.read_text())
    now = {f"{row['group']}: {row['quantity']}": row["mape"] for row in table(rows)}
    assert set(now) == set(frozen)
    moved = {name: (frozen[name], now[name]) for name in now if abs(now[name] - frozen[name]) > POINT}
    assert not moved
