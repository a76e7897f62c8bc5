"""Capacity changes hands once along the load, and is what a closed form says where there is one."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sparsesim.errors import InfeasibleError, InputError
from sparsesim.scenario import Scenario
from sparsesim.study.capacity import capacity, lower_bound


def asked(values: dict[str, Any], **options: Any) -> Scenario:
    return Scenario.of({**values, "study": {"kind": "capacity", "options": options}})


def test_the_highest_load_is_met_and_a_little_more_is_not(values: dict[str, Any]) -> None:
    found = capacity(asked({**values, "slo": {"ttft": "40 ms", "percentile": 90}}, precision=0.05, replications=2))
    for replication, load in enumerate(found.each):
        own = [t for t in found.trials if t.replication == replication]
        met, missed = ([t.load for t in own if t.met is wanted] for wanted in (True, False))
        assert load == max(met)
        assert min(missed) / load <= 1.05 + 1e-9
        assert max(met) < min(missed), "with common random numbers the SLO changes hands once"


def test_one_sequence_at_a_time_takes_what_a_deterministic_queue_takes(values: dict[str, Any]) -> None:
    """D/D/1: arrivals evenly spaced, one place, equal requests: nobody queues up to a rate of one per service time."""
    from sparsesim.simulation import simulate

    values["deployment"]["scheduler"] = {"kind": "continuous", "max_running": 1}
    arrivals = {"kind": "deterministic", "rate": "1 /s"}
    values["workload"] = {**values["workload"], "arrivals": arrivals, "requests": 200}
    alone = simulate(Scenario.of(values))
    service_s = alone.summary["e2e_s"]["mean"]
    values["slo"] = {"e2e": f"{1.05 * service_s} s", "percentile": 100}
    found = capacity(asked(values, precision=0.005, replications=1))
    assert found.mean == pytest.approx(1 / service_s, rel=0.01)
    assert found.bound == found.mean


def test_students_lower_bound() -> None:
    """Three values 9, 10, 11: mean 10, s 1, t(0.95; 2) 2.920 (any table): 10 - 2.920/sqrt(3)."""
    assert lower_bound([9.0, 10.0, 11.0]) == pytest.approx(10 - 2.91999 / math.sqrt(3), abs=1e-4)


def test_an_slo_below_the_service_time_is_infeasible(values: dict[str, Any]) -> None:
    with pytest.raises(InfeasibleError, match=r"missed at any load: .*ttft_s p99 is .* against 0.0001 s"):
        capacity(asked({**values, "slo": {"ttft": "0.1 ms", "percentile": 90}}, replications=1))


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        ({"slo": {}}, {}, "capacity needs a limit"),
        ({}, {"path": "deployment.tp"}, "is no load"),
        ({}, {"path": "workload.arrivals.speed"}, "None cannot be raised"),
        ({}, {"precision": 0}, "precision"),
    ],
)
def test_what_cannot_be_bisected_is_refused(values: dict[str, Any], change: Any, options: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        capacity(asked({**values, **change}, **options))


def test_pools_have_a_capacity_too(values: dict[str, Any]) -> None:
    """A second decode replica does not help where prompts are the limit, a second prefill replica does."""
    values["slo"] = {"ttft": "100 ms", "percentile": 90}
    values["workload"]["requests"] = 400
    found = {}
    for prefill, decode in ((1, 1), (1, 2), (2, 1)):
        pools = {
            "prefill": {"hardware": "h100-sxm", "replicas": prefill},
            "decode": {"hardware": "h100-sxm", "replicas": decode},
        }
        study = {"kind": "capacity", "options": {"precision": 0.1, "replications": 1}}
        scenario = Scenario.of({**values, "deployment": {"pools": pools}, "study": study})
        found[prefill, decode] = capacity(scenario).mean
    assert found[1, 2] == pytest.approx(found[1, 1], rel=0.15)
    assert found[2, 1] > 1.4 * found[1, 1]
