"""Arrivals: rates, spreads and independence, each against its law."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sparsesim.errors import InputError
from sparsesim.loading import Document, build
from sparsesim.workload import Workload, generate
from sparsesim.workload.arrivals.weibull import Weibull, cv_of, shape_of

LENGTHS = {"kind": "fixed", "prompt": "100 tok", "output": "10 tok"}
LAWS: dict[str, dict[str, Any]] = {
    "poisson": {"kind": "poisson", "rate": "12 /s"},
    "gamma": {"kind": "gamma", "rate": "12 /s", "cv": 2.5},
    "weibull": {"kind": "weibull", "rate": "12 /s", "cv": 1.7},
    "deterministic": {"kind": "deterministic", "rate": "12 /s"},
    "ramp": {"kind": "ramp", "points": [{"at": "0 s", "rate": "2 /s"}, {"at": "60 s", "rate": "20 /s"}]},
    "diurnal": {"kind": "diurnal", "rate": "12 /s", "swing": 0.8, "period": "200 s"},
    "sessions": {"kind": "sessions", "rate": "3 /s", "turns": 4, "think": {"mean": "10 s"}},
}


def workload(arrivals: dict[str, Any], **limits: Any) -> Workload:
    return Workload.resolve({"arrivals": arrivals, "lengths": LENGTHS, **limits})


def gaps_of(arrivals: dict[str, Any], requests: int = 40_000) -> np.ndarray:
    arrival_s = generate(workload(arrivals, requests=requests), seed=3).arrival_s
    return np.diff(arrival_s, prepend=0.0)


@pytest.mark.parametrize(("kind", "cv"), [("poisson", 1.0), ("gamma", 2.5), ("weibull", 1.7), ("deterministic", 0.0)])
def test_a_renewal_process_has_the_rate_and_spread_asked_for(kind: str, cv: float) -> None:
    gaps = gaps_of(LAWS[kind])
    assert gaps.mean() == pytest.approx(1 / 12, rel=4 * max(cv, 1e-12) / math.sqrt(len(gaps)))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.06, abs=1e-9)


def test_poisson_gaps_are_exponential() -> None:
    assert stats.kstest(gaps_of(LAWS["poisson"]), "expon", args=(0, 1 / 12)).pvalue > 0.001


def test_the_weibull_shape_of_cv_1_is_the_exponential_law() -> None:
    assert shape_of(1.0) == pytest.approx(1.0, rel=1e-9)
    assert cv_of(2.0) == pytest.approx(math.sqrt(4 / math.pi - 1), rel=1e-12)  # Rayleigh


@given(st.floats(0.1, 300.0))
@settings(max_examples=40, deadline=None)
def test_the_weibull_shape_returns_the_spread(cv: float) -> None:
    assert cv_of(shape_of(cv)) == pytest.approx(cv, rel=1e-9)


def test_every_spread_that_weibull_accepts_has_a_shape() -> None:
    bounds = Weibull.model_json_schema()["properties"]["cv"]
    assert cv_of(20.0) < bounds["minimum"] < bounds["maximum"] < cv_of(0.1)


def test_a_ramp_sends_the_integral_of_its_rate() -> None:
    table = generate(workload({**LAWS["ramp"], "cv": 0}, duration="60 s"), seed=0)
    assert len(table) == pytest.approx((2 + 20) / 2 * 60, abs=1)
    half = np.searchsorted(table.arrival_s, 30.0)
    assert half == pytest.approx((2 + 11) / 2 * 30, abs=1)


def test_a_ramp_may_fall_to_nothing_and_rise_again() -> None:
    points = [{"at": f"{at} s", "rate": f"{rate} /s"} for at, rate in ((0, 10), (10, 0), (20, 0), (30, 10))]
    table = generate(workload({"kind": "ramp", "points": points, "cv": 0}, requests=100), seed=0)
    assert not np.any((table.arrival_s > 10.0 + 1e-9) & (table.arrival_s < 20.0 - 1e-9))
    assert np.searchsorted(table.arrival_s, 15.0) == 50


def test_a_diurnal_day_has_the_mean_rate_and_its_peak() -> None:
    law = {"kind": "diurnal", "rate": "12 /s", "swing": 0.8, "period": "200 s", "peak": "50 s", "cv": 0}
    arrival_s = generate(workload(law, duration="200 s"), seed=0).arrival_s
    assert len(arrival_s) == pytest.approx(2400, abs=1)
    near_peak = np.searchsorted(arrival_s, [45.0, 55.0])
    assert near_peak[1] - near_peak[0] == pytest.approx(12 * 1.8 * 10, rel=0.01)


@pytest.mark.parametrize("kind", sorted(LAWS))
def test_same_seed_same_requests_another_seed_others(kind: str) -> None:
    first, again, other = (generate(workload(LAWS[kind], requests=500), seed) for seed in (7, 7, 8))
    assert first.arrival_s.tobytes() == again.arrival_s.tobytes()
    assert kind == "deterministic" or first.arrival_s.tobytes() != other.arrival_s.tobytes()


@pytest.mark.parametrize("kind", sorted(set(LAWS) - {"sessions"}))
def test_a_longer_run_begins_as_the_shorter_one(kind: str) -> None:
    short, long = (generate(workload(LAWS[kind], requests=n), seed=1).arrival_s for n in (500, 9000))
    assert np.array_equal(short, long[:500])


@pytest.mark.parametrize("kind", sorted(LAWS))
def test_a_duration_cuts_and_arrivals_ascend(kind: str) -> None:
    arrival_s = generate(workload(LAWS[kind], duration="100 s"), seed=1).arrival_s
    assert len(arrival_s) > 100
    assert arrival_s[0] >= 0.0
    assert arrival_s[-1] < 100.0
    assert np.all(np.diff(arrival_s) >= 0.0)


@pytest.mark.parametrize("kind", sorted(LAWS))
def test_a_kind_reads_back_what_it_writes(kind: str) -> None:
    one = workload(LAWS[kind], requests=10)
    assert Workload.resolve(one.with_kind("json")) == one


def test_arrivals_do_not_depend_on_lengths() -> None:
    other = {"kind": "lognormal", "prompt": {"mean": "9 tok", "cv": 1}, "output": {"mean": "9 tok", "cv": 1}}
    first = Workload.resolve({"arrivals": LAWS["gamma"], "lengths": LENGTHS, "requests": 100})
    second = Workload.resolve({"arrivals": LAWS["gamma"], "lengths": other, "requests": 100})
    assert np.array_equal(generate(first, 5).arrival_s, generate(second, 5).arrival_s)


def test_replications_differ() -> None:
    first, second = (generate(workload(LAWS["poisson"], requests=50), 0, replication=r) for r in (0, 1))
    assert not np.any(first.arrival_s == second.arrival_s)


def test_a_session_repeats_its_history_and_shares_its_blocks() -> None:
    table = generate(workload(LAWS["sessions"], requests=3000), seed=2)
    later = np.flatnonzero(table.follows >= 0)
    before = table.follows[later]
    assert len(later) == pytest.approx(3000 * 3 / 4, rel=0.1)
    assert np.array_equal(table.prompt_tok[later], 100 + table.prompt_tok[before] + table.output_tok[before])
    assert np.array_equal(table.client[later], table.client[before])
    assert np.all(before < later)
    assert table.arrival_s[later] == pytest.approx(table.arrival_s[before] + table.think_s[later])
    assert table.prefix_blocks is not None
    turn, previous = int(later[5]), int(before[5])
    shared = table.prefix_blocks.of(previous)
    assert np.array_equal(table.prefix_blocks.of(turn)[: len(shared)], shared)
    firsts = table.prefix_blocks.ids[table.prefix_blocks.offsets[:-1]]
    assert len(np.unique(firsts)) == len(np.unique(table.client))


def test_a_closed_loop_is_flagged_and_its_first_users_do_not_wait() -> None:
    table = generate(workload({"kind": "concurrency", "users": 8, "think": {"mean": "2 s"}}, requests=4000), seed=0)
    assert table.concurrency == 8
    assert np.all(table.think_s[:8] == 0.0)
    assert table.think_s[8:].mean() == pytest.approx(2.0, rel=0.1)


def test_a_mix_keeps_its_clients_apart() -> None:
    clients = [
        {"arrivals": LAWS["poisson"], "lengths": LENGTHS, "priority": 1},
        {"arrivals": LAWS["sessions"], "lengths": {**LENGTHS, "prompt": "7 tok"}},
    ]
    both = generate(Workload.resolve({"arrivals": {"kind": "mix", "clients": clients}, "duration": "60 s"}), 0)
    one = generate(Workload.resolve({"arrivals": {"kind": "mix", "clients": clients[:1]}, "duration": "60 s"}), 0)
    mine = both.client == 0
    assert np.array_equal(both.arrival_s[mine], one.arrival_s)
    assert set(both.priority[mine]) == {1}
    assert set(both.priority[~mine]) == {0}
    follows = both.follows[both.follows >= 0]
    assert np.all(both.client[follows] == 1)


@pytest.mark.parametrize(
    ("arrivals", "words"),
    [
        ({"kind": "poisson", "rate": "-3 /s"}, "greater than 0"),
        ({"kind": "poisson", "rate": 3}, "has no unit"),
        ({"kind": "poison", "rate": "3 /s"}, "did you mean poisson"),
        ({"kind": "gamma", "rate": "3 /s", "cv": -1}, "greater than or equal to 0"),
        ({"kind": "gamma", "rate": "3 /s", "cv": 1, "burst": 2}, "unknown key 'burst'"),
        ({"kind": "ramp", "points": [{"at": "1 s", "rate": "1 /s"}, {"at": "2 s", "rate": "1 /s"}]}, "from 0 s"),
    ],
)
def test_bad_input_names_the_value(arrivals: dict[str, Any], words: str) -> None:
    from sparsesim.families import Frozen

    class Scenario(Frozen):
        workload: Workload

    with pytest.raises(InputError) as caught:
        build(Scenario, Document({"workload": {"arrivals": arrivals, "lengths": LENGTHS, "requests": 5}}))
    assert words in str(caught.value)
    assert "workload.arrivals" in str(caught.value)


@pytest.mark.parametrize("arrivals", [LAWS["poisson"], {"kind": "concurrency", "users": 2}])
def test_a_workload_without_an_end_is_refused(arrivals: dict[str, Any]) -> None:
    endless = workload(arrivals)
    with pytest.raises(InputError, match="requests: 20000"):
        generate(endless, seed=0)
    assert [problem.message for problem in endless.problems(None)] == ["has no end"]
    assert workload(arrivals, requests=3).problems(None) == []


def test_a_mix_of_recordings_ends_by_itself() -> None:
    recorded = {"arrivals": {"kind": "trace", "file": "sharegpt300_llama31_lengths.csv"}}
    mix = {"kind": "mix", "clients": [recorded, recorded]}
    assert Workload.resolve({"arrivals": mix}).problems(None) == []
    assert len(generate(Workload.resolve({"arrivals": mix}), 0)) == 600


def test_every_pair_of_clients_has_other_numbers() -> None:
    clients = [{"arrivals": LAWS["poisson"], "lengths": LENGTHS}] * 3
    table = generate(Workload.resolve({"arrivals": {"kind": "mix", "clients": clients}, "requests": 300}), 0)
    columns = [table.arrival_s[table.client == number][:50] for number in range(3)]
    assert not any(np.any(np.isin(a, b)) for a, b in pairwise(columns))
