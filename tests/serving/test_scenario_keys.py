"""Serving keys of a scenario: what they do in the records, and that none is without effect."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparsesim.closed_form import estimate
from sparsesim.errors import InputError
from sparsesim.scenario import KvTransfer, Scenario
from sparsesim.serving import check_effects, host_bandwidth, replica_spec, serve, transfer_of
from sparsesim.sim.records import Records
from sparsesim.sim.transfer import SharedLinks
from sparsesim.system import systems
from sparsesim.workload import generate
from sparsesim.workload.requests import PrefixBlocks, RequestTable

FIXED = {"kind": "fixed", "prompt": "512 tok", "output": "64 tok"}
ONE = {"hardware": "h100-sxm", "replicas": 2}


def scenario(deployment: dict[str, Any], workload: dict[str, Any] | None = None, **others: Any) -> Scenario:
    work = workload or {"arrivals": {"kind": "poisson", "rate": "10 /s"}, "lengths": FIXED, "requests": 300}
    return Scenario.of({"model": "llama-3.1-8b", "deployment": deployment, "workload": work, **others})


def served(asked: Scenario, requests: RequestTable | None = None) -> Records:
    pools = systems(asked)
    table = generate(asked.workload, 0, 0, asked.folder) if requests is None else requests
    check_effects(asked, pools, table)
    return serve(asked, pools, table)


def refused(asked: Scenario) -> str:
    with pytest.raises(InputError) as caught:
        served(asked)
    return str(caught.value)


def test_pools_that_cost_nothing_to_join_agree_with_replicas_that_do_both() -> None:
    # one request at a time, transfer free: prefill and decode steps are the same, wherever they run
    work = {"arrivals": {"kind": "deterministic", "rate": "0.5 /s"}, "lengths": FIXED, "requests": 40}
    free = {"bandwidth": "1e30 B/s", "latency": "0 s"}
    pool = {"hardware": "h100-sxm"}
    apart = served(scenario({"pools": {"prefill": pool, "decode": pool}, "transfer": free}, work)).requests
    whole = served(scenario({"hardware": "h100-sxm"}, work)).requests
    for name in ("first_token_s", "finish_s"):
        assert apart[name] == pytest.approx(whole[name], abs=1e-8)


def test_kv_takes_the_time_of_its_bytes_over_the_cards() -> None:
    # Llama-3.1-8B keeps 32 layers x 2 x 8 heads x 128 x 2 B = 131,072 B a token; an H100 sends 50 GB/s, 3 us
    work = {"arrivals": {"kind": "deterministic", "rate": "0.5 /s"}, "lengths": FIXED, "requests": 1}
    pool = {"hardware": "h100-sxm", "replicas": 5}  # ten devices do not fit one node of eight
    records = served(scenario({"pools": {"prefill": pool, "decode": pool}}, work))
    moved = records.events["time_s"][records.events["event"] == "transferred"][0]
    took = moved - records.requests["first_token_s"][0]
    assert took == pytest.approx(3e-6 + 513 * 131_072 / 50e9, rel=0.01)
    inside = systems(scenario({"pools": {"prefill": {"hardware": "h100-sxm"}, "decode": {"hardware": "h100-sxm"}}}))
    moved_inside = transfer_of(inside, KvTransfer())
    assert isinstance(moved_inside, SharedLinks)
    assert moved_inside.out_bytes_per_s == moved_inside.in_bytes_per_s == 450e9


def test_pools_of_different_hardware_draw_their_own_power() -> None:
    pools = {"prefill": {"hardware": "h100-sxm"}, "decode": {"hardware": "h200-sxm"}}
    asked = scenario({"pools": pools})
    records, parts = served(asked), systems(asked)
    assert records.replicas["active_idle_w"].tolist() == [
        parts["prefill"].steps.active_idle_w,
        parts["decode"].steps.active_idle_w,
    ]
    rows = records.steps["replica"]
    assert records.steps["prefill_tok"][rows == 0].sum() == 300 * 512
    assert records.steps["prefill_tok"][rows == 1].sum() == 0
    assert all(records.steps[f"{name}_j"][rows == 1].sum() > 0 for name in ("compute", "memory", "static"))


def test_a_failed_replica_loses_no_request() -> None:
    outage = {"outages": [{"replica": 0, "at": "5 s", "lasts": "10 s"}]}
    records = served(scenario({**ONE, "faults": outage}))
    assert (records.requests["outcome"] == "finished").all()
    assert records.requests["generated_tok"].sum() == 300 * 64
    assert (records.events["event"] == "rerouted").sum() > 0


def test_drafts_and_failures_follow_the_seed() -> None:
    faults = {"mean_time_to_failure": "10 s", "mean_time_to_repair": "2 s"}
    events = [
        served(scenario({**ONE, "faults": faults}, simulation={"seed": seed})).events["time_s"] for seed in (1, 1, 2)
    ]
    assert np.array_equal(events[0], events[1])
    assert not np.array_equal(events[0], events[2])


def test_admission_turns_away_by_class() -> None:
    mix = [{"priority": one, "arrivals": {"kind": "poisson", "rate": "80 /s"}, "lengths": FIXED} for one in (0, 1)]
    work = {"arrivals": {"kind": "mix", "clients": mix}, "requests": 2000}
    asked = scenario({"hardware": "h100-sxm", "admission": {"max_outstanding": [400, 50]}}, work)
    requests = served(asked).requests
    away = requests["outcome"] == "rejected_full"
    assert away[requests["priority"] == 1].mean() > 2 * away[requests["priority"] == 0].mean() > 0


def test_swapping_takes_the_host_links_time() -> None:
    # a block of 16 tokens has 16 x 131,072 B, an H100's host link 64 GB/s
    asked = scenario({"hardware": "h100-sxm", "scheduler": {"kind": "continuous", "preemption": "swap"}})
    system = systems(asked)["all"]
    assert host_bandwidth(system) == 64e9
    assert replica_spec(system).swap_s_per_block == pytest.approx(16 * 131_072 / 64e9)


def test_host_memory_is_counted_in_blocks_of_the_whole_replica() -> None:
    deployment = {"hardware": "h100-sxm", "tp": 2, "memory": {"prefix_cache": True, "host": "1 GiB"}}
    spec = replica_spec(systems(scenario(deployment))["all"])
    assert spec.host_blocks == 2**30 // (16 * 131_072)
    assert spec.prefix_cache == "pool"


def test_a_prefix_cache_hits_what_prompts_share() -> None:
    blocks = PrefixBlocks(np.array([1, 2, 3, 1, 2, 4]), np.array([0, 3, 6]), 128)
    table = RequestTable.of([0.0, 5.0], [400, 400], [8, 8], prefix_blocks=blocks)
    records = served(scenario({"hardware": "h100-sxm", "memory": {"prefix_cache": True}}), table)
    assert records.requests["cached_tok"].tolist() == [0, 256]


def test_classes_have_limits_of_their_own() -> None:
    from sparsesim.metrics import summarise

    mix = [{"priority": one, "arrivals": {"kind": "poisson", "rate": "5 /s"}, "lengths": FIXED} for one in (0, 1)]
    work = {"arrivals": {"kind": "mix", "clients": mix}, "requests": 200}
    asked = scenario(ONE, work, slo={"classes": {0: {"ttft": "1 us"}, 1: {"e2e": "1 h"}}})
    records = served(asked)
    summary = summarise(records, asked.slo)
    share = float((records.requests["priority"] == 1).mean())
    assert summary["slo"]["attainment"] == pytest.approx(share)
    assert [summary["by_priority"][one]["slo"]["attainment"] for one in ("0", "1")] == [0.0, 1.0]


@pytest.mark.parametrize(
    ("deployment", "others", "said"),
    [
        ({**ONE, "memory": {"prefix_cache": True}}, {}, "names no prefix blocks"),
        ({**ONE, "memory": {"host_bandwidth": "64 GB/s"}}, {}, "nothing goes to host memory"),
        ({**ONE, "admission": {"max_outstanding": [9, 5]}}, {}, "every request has priority 0"),
        ({**ONE, "scheduler": {"kind": "continuous", "policy": "priority"}}, {}, "the same priority"),
        (ONE, {"slo": {"classes": {3: {"ttft": "1 s"}}}}, "no request has priority 3"),
    ],
)
def test_a_key_without_effect_is_an_error_at_its_place(
    deployment: dict[str, Any], others: dict[str, Any], said: str
) -> None:
    assert said in refused(scenario(deployment, **others))


@pytest.mark.parametrize(
    ("deployment", "said"),
    [
        ({**ONE, "memory": {"host": "1 GiB"}}, "prefix_cache: true"),
        ({**ONE, "transfer": {"latency": "1 us"}}, "between pools"),
        ({**ONE, "faults": {}}, "nothing fails"),
        ({**ONE, "faults": {"mean_time_to_failure": "1 h", "restart_lasts": "5 s"}}, "without restart_at"),
        ({**ONE, "faults": {"outages": [{"replica": 2, "at": "1 s"}]}}, "numbered from 0"),
        ({**ONE, "admission": {}}, "nobody is turned away"),
        ({**ONE, "autoscale": {"least": 3, "most": 4, "target": 8}}, "not within autoscale"),
        ({"pools": {p: {"hardware": "h100-sxm"} for p in ("prefill", "decode")}, "autoscale": {"most": 2, "target": 1}},
         "autoscale belong inside each pool"),
    ],
)  # fmt: skip
def test_keys_that_do_not_go_together_are_refused(deployment: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        scenario(deployment)


def test_an_estimate_says_what_it_leaves_out() -> None:
    run = estimate(scenario({**ONE, "admission": {"max_wait": "10 s"}}))
    assert any("deployment.admission" in line for line in run.manifest["assumptions"])
    pool = {"hardware": "h100-sxm", "scheduler": {"kind": "continuous", "policy": "priority"}}
    run = estimate(scenario({"pools": {"prefill": {"hardware": "h100-sxm"}, "decode": pool}}))
    assert any("deployment.pools.decode.scheduler.policy" in line for line in run.manifest["assumptions"])


def test_overload_ends_every_request_by_name() -> None:
    work = {"arrivals": {"kind": "poisson", "rate": "5000 /s"}, "lengths": FIXED, "requests": 3000}
    tight = {"hardware": "h100-sxm", "memory": {"kv_blocks": 200}, "admission": {"max_wait": "20 s"}}
    records = served(scenario(tight, work))
    assert set(records.requests["outcome"].tolist()) == {"finished", "timed_out"}
    assert records.steps["kv_blocks"].max() <= 200
    long = {**work, "lengths": {"kind": "fixed", "prompt": "140000 tok", "output": "8 tok"}, "requests": 10}
    assert set(served(scenario({"hardware": "h100-sxm"}, long)).requests["outcome"].tolist()) == {"rejected_too_long"}
    large = {**work, "lengths": {"kind": "fixed", "prompt": "4000 tok", "output": "8 tok"}, "requests": 10}
    outcomes = served(scenario({"hardware": "h100-sxm", "memory": {"kv_blocks": 200}}, large)).requests["outcome"]
    assert set(outcomes.tolist()) == {"rejected_too_large"}
