"""The shipped serving scenarios give the answers that their titles ask for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from sparsesim.cost.breakdown import at_context
from sparsesim.metrics import summarise
from sparsesim.metrics.latency import with_latencies
from sparsesim.scenario import Scenario
from sparsesim.serving import check_effects, serve
from sparsesim.sim.records import Records
from sparsesim.study.cases import cases
from sparsesim.system import systems
from sparsesim.workload import generate

SHIPPED = sorted(path.stem for path in (Path(__file__).parents[2] / "scenarios").glob("serving-*.yaml"))


def served(scenario: Scenario) -> Records:
    pools, table = systems(scenario), generate(scenario.workload, 0, 0, scenario.folder)
    check_effects(scenario, pools, table)
    return serve(scenario, pools, table)


@cache
def records_of(name: str, *settings: str) -> Records:
    return served(Scenario.load(name, settings))


def late(records: Records, limit_s: float) -> float:
    return float(np.greater(with_latencies(records.requests)["ttft_s"], limit_s).mean())


def on_s(records: Records, role: str) -> float:
    mine = records.replicas["role"] == role
    return float(np.subtract(records.replicas["down_s"], records.replicas["up_s"])[mine].sum())


def all_finished(records: Iterable[str]) -> bool:
    return set(records) == {"finished"}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_scenario_asks_a_question_in_keys_with_effect(name: str) -> None:
    scenario = Scenario.load(name)
    assert scenario.title.endswith("?")
    for case in cases(scenario):
        check_effects(case.scenario, systems(case.scenario), generate(case.scenario.workload, 0, 0, scenario.folder))


def test_prefill_replicas_of_their_own_smooth_tokens() -> None:
    apart = records_of("serving-disaggregated", "workload.duration=200 s")
    pool = {"hardware": "h100-sxm", "tp": 2, "replicas": 4, "router": "least_outstanding"}
    scenario = Scenario.load("serving-disaggregated", ["workload.duration=200 s"])
    whole = served(Scenario.of({**scenario.model_dump(mode="json"), "deployment": pool}, scenario.folder))
    assert all_finished(apart.requests["outcome"].tolist())
    gaps = [summarise(records)["itl_s"] for records in (apart, whole)]
    assert gaps[0]["p99"] < 0.7 * gaps[1]["p99"]  # no prompt's chunk ever holds a token up
    moved = apart.events["event"] == "transferred"
    assert moved.sum() == np.greater(apart.requests["output_tok"], 1).sum()


def test_an_unbounded_cache_hits_what_the_trace_repeats() -> None:
    settings = ("deployment.memory.prefix_cache=unbounded", "deployment.replicas=1", "study=null")
    scenario = Scenario.load("serving-prefix-cache", settings)
    table = generate(scenario.workload, 0, 0, scenario.folder)
    records = served(scenario)
    blocks = table.prefix_blocks
    assert blocks is not None
    seen: set[int] = set()
    hits = 0
    finished = records.requests["outcome"] == "finished"
    for row in range(len(table)):
        ids = blocks.ids[blocks.offsets[row] : blocks.offsets[row + 1]].tolist()
        leading = next((k for k, one in enumerate(ids) if one not in seen), len(ids))
        seen.update(ids)
        most = (int(table.prompt_tok[row]) - 1) // blocks.block_tok  # the last token is always computed
        if finished[row]:
            assert records.requests["cached_tok"][row] <= min(leading, most) * blocks.block_tok
        hits += leading
    assert hits / len(blocks.ids) == pytest.approx(0.640, abs=5e-4)
    cached = records.requests["cached_tok"][finished].sum() / blocks.block_tok
    asked = np.diff(blocks.offsets)[finished].sum()
    assert cached / asked == pytest.approx(0.640, abs=0.01)  # ten requests beyond the context, and last tokens


def test_scaling_keeps_a_bound_that_a_fleet_of_the_same_mean_size_misses() -> None:
    scaled = records_of("serving-autoscale")
    scenario = Scenario.load("serving-autoscale")
    hours = float(np.subtract(scaled.replicas["down_s"], scaled.replicas["up_s"]).sum())
    fixed = max(round(hours / scaled.end_s), 1)
    fleet = records_of("serving-autoscale", "deployment.autoscale=null", f"deployment.replicas={fixed}")
    assert late(scaled, scenario.slo.ttft or 0.0) < 1 - scenario.slo.percentile / 100
    assert late(fleet, scenario.slo.ttft or 0.0) > 1 - scenario.slo.percentile / 100
    assert all_finished(scaled.requests["outcome"].tolist())


def test_pools_that_follow_each_its_own_load_keep_bounds_that_fixed_ones_of_their_mean_size_miss() -> None:
    name = "serving-autoscale-pools"
    scaled, slo = records_of(name), Scenario.load(name).slo
    mean = {role: float(on_s(scaled, role) / scaled.end_s) for role in ("prefill", "decode")}
    fixed = [f"deployment.pools.{role}.autoscale=null" for role in mean]
    fixed += [f"deployment.pools.{role}.replicas={math.ceil(size)}" for role, size in mean.items()]
    level = records_of(name, *fixed)
    assert sum(mean.values()) < sum(map(math.ceil, mean.values())) == 4
    assert summarise(scaled, slo)["slo"]["attainment"] > 0.95 > summarise(level, slo)["slo"]["attainment"]
    # 6 documents of 12,000 tokens a second are more than two H100s compute: their prompts queue
    assert late(scaled, slo.ttft or 0.0) < 0.02
    assert late(level, slo.ttft or 0.0) > 0.05
    # decode replicas start while chats swell, and none while documents do
    roles = dict(zip(scaled.replicas["replica"].tolist(), scaled.replicas["role"].tolist(), strict=True))
    starting = scaled.events["event"] == "replica_starting"
    swelling = scaled.events["time_s"][starting] < 600
    role = np.array([roles[one] for one in scaled.events["replica"][starting].tolist()])
    assert (role[swelling] == "decode").sum() > (role[swelling] == "prefill").sum()
    assert set(role[~swelling].tolist()) == {"prefill"}
    # nothing is lost where replicas go: every prompt is computed once, every token made
    assert all_finished(scaled.requests["outcome"].tolist())
    assert scaled.steps["prefill_tok"].sum() == scaled.requests["prompt_tok"].sum()
    assert scaled.steps["output_tok"].sum() == scaled.requests["output_tok"].sum()
    assert summarise(scaled)["energy_j"] < 0.85 * summarise(level)["energy_j"]


def test_a_dead_replica_loses_no_request_and_its_requests_wait() -> None:
    records = records_of("serving-replica-failure", "workload.duration=200 s")
    assert all_finished(records.requests["outcome"].tolist())
    assert (records.requests["generated_tok"] == records.requests["output_tok"]).all()
    moved = np.isin(records.requests["request"], records.events["request"][records.events["event"] == "rerouted"])
    took = np.divide(with_latencies(records.requests)["e2e_s"], records.requests["output_tok"])
    assert moved.any()
    assert np.median(took[moved]) > np.median(took[~moved])


def test_priorities_keep_the_first_class_within_its_bound() -> None:
    scenario = Scenario.load("serving-slo-classes", ["workload.duration=100 s"])
    classes = summarise(served(scenario), scenario.slo)["by_priority"]
    assert classes["0"]["slo"]["attainment"] > 0.95 > classes["1"]["slo"]["attainment"]
    level = Scenario.load(
        "serving-slo-classes",
        ["workload.duration=100 s", "deployment.scheduler.policy=fcfs", "deployment.admission=null"],
    )
    assert summarise(served(level), level.slo)["by_priority"]["0"]["slo"]["attainment"] < 0.95


def test_a_fleet_that_follows_the_day_takes_less_energy() -> None:
    fixed, scaled = (
        served(case.scenario) for case in cases(Scenario.load("serving-diurnal", ["workload.duration=30 min"]))
    )
    assert summarise(scaled)["energy_j"] < summarise(fixed)["energy_j"]
    assert all_finished(scaled.requests["outcome"].tolist())


def test_clients_of_servegen_keep_their_own_lengths() -> None:
    records = records_of("serving-servegen", "study=null", "workload.duration=200 s")
    client, prompt = records.requests["client"], records.requests["prompt_tok"]
    assert set(np.unique(client).tolist()) == {0, 1}
    assert all_finished(records.requests["outcome"].tolist())
    means = [float(prompt[client == one].mean()) for one in (0, 1)]
    assert max(means) > 1.2 * min(means)


def test_two_or_three_micro_batches_hide_the_way_to_the_experts_and_more_only_read_weights_again() -> None:
    scenario = Scenario.load("serving-attention-ffn-split")
    step_s, memory_j, pools = {}, {}, {}
    for case in cases(scenario):
        pools = systems(case.scenario)
        ffn, steps = pools["decode"].ffn, pools["decode"].steps
        assert ffn is not None
        step_s[ffn.micro_batches], _, memory_j[ffn.micro_batches], *_ = at_context(steps, 4000, 2000.0)
    # one micro-batch pays two exchanges in each of 58 layers, over 0.1 ms even where they are empty
    assert step_s[1] > 1.4 * step_s[3]
    assert step_s[2] == pytest.approx(step_s[3], rel=0.1)
    assert step_s[4] > 1.15 * step_s[3]
    assert memory_j[1] < memory_j[2] < memory_j[3] < memory_j[4]
    assert pools["decode"].devices == 32
    fewer = ["workload.arrivals.users=600", "workload.requests=1800", "study=null", "simulation.warm_up=10 s"]
    records = records_of("serving-attention-ffn-split", *fewer)
    assert all_finished(records.requests["outcome"].tolist())
    decodes = np.asarray(records.steps["replica"]) == 1
    took, sequences, context = (
        np.asarray(records.steps[name], float)[decodes] for name in ("first_s", "decode", "context_tok")
    )
    typical = int(np.argmin(np.abs(sequences - np.median(sequences))))
    steps = systems(Scenario.load("serving-attention-ffn-split"))["decode"].steps
    expected = at_context(steps, int(sequences[typical]), context[typical] / sequences[typical])[0]
    assert took[typical] == pytest.approx(expected)
