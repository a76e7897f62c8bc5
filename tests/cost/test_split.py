"""Attention and experts on devices of their own: the ping-pong's law, its parts, bytes, joules and memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesim.closed_form import estimate
from sparsesim.cost.accumulate import COMPUTE, MEMORY, device_seconds
from sparsesim.cost.breakdown import at_context, step
from sparsesim.cost.split import SplitSteps, ping_pong_s
from sparsesim.errors import DoesNotFitError, InputError
from sparsesim.model.arch import Batch
from sparsesim.scenario import Scenario
from sparsesim.simulation import simulate
from sparsesim.system import PoolSystem, single_pool

FFN = {"devices": 8, "micro_batches": 3}


def scenario(ffn: dict[str, Any] | None = None, model: str = "mixtral-8x7b", **others: Any) -> Scenario:
    deployment = {"hardware": "h100-sxm", "dp": 8, "ffn": {**FFN, **(ffn or {})}, **others.pop("deployment", {})}
    work = others.pop("workload", {"kind": "static", "phase": "decode", "batch": 1024, "context": "2048 tok"})
    return Scenario.of({"model": model, "deployment": deployment, "workload": work, **others})


def system(ffn: dict[str, Any] | None = None, **others: Any) -> PoolSystem:
    return single_pool(scenario(ffn, **others))


def steps_of(ffn: dict[str, Any] | None = None, **others: Any) -> SplitSteps:
    steps = system(ffn, **others).steps
    assert isinstance(steps, SplitSteps)
    return steps


def flow_shop_s(layers: int, micro_batches: int, stages: tuple[float, ...]) -> float:
    """Micro-batches one by one: each stage takes them in order, as soon as both are ready."""
    free = [0.0] * len(stages)
    ready = [0.0] * micro_batches
    for _ in range(layers):
        for one in range(micro_batches):
            for k, seconds in enumerate(stages):
                free[k] = ready[one] = max(free[k], ready[one]) + seconds
    return max(ready)


@given(
    st.integers(1, 12),
    st.integers(1, 6),
    st.tuples(*[st.one_of(st.just(0.0), st.floats(1e-6, 1.0))] * 4),
)
def test_the_ping_pong_is_exact_for_micro_batches_in_order(layers, micro_batches, stages):
    expected = flow_shop_s(layers, micro_batches, stages)
    assert float(ping_pong_s(layers, micro_batches, *stages)) == pytest.approx(expected, rel=1e-12)


def test_the_published_law_of_a_full_pipeline():
    # MegaScale-Infer: T = (Ta + Te + 2 Tc) + Tf (m L - 1), Tf the longer of Ta and Te, where m Tf >= Ta + Te + 2 Tc
    assert float(ping_pong_s(61, 3, 2.0, 0.5, 1.8, 0.5)) == pytest.approx(4.8 + 2.0 * (3 * 61 - 1))


def test_one_micro_batch_is_the_sum_of_its_parts():
    steps = steps_of({"micro_batches": 1})
    tables, ffn, engine = steps.tables, steps.ffn, steps.engine
    held, tokens = 16, 16 * 8
    fixed, by_window = tables.decode(held)
    context = np.array([np.interp(2048, tables.knots, column) for column in by_window[math.inf].T])
    attention, _ = device_seconds(np.add(tables.tokens.at(held), fixed) + context, engine, True)
    head, _ = device_seconds(np.array(tables.head.at(held)), engine, True)
    experts, _ = device_seconds(np.array(ffn.rows.at(tokens)), engine, True)
    overhead = steps.overhead(held, tokens)
    moved = 32 * engine.collectives.value * (ffn.there.time_s(tokens) + ffn.back.time_s(tokens))
    whole = attention + experts + moved + head + overhead.host_s + overhead.sampling_s
    assert at_context(steps, tokens, 2048.0)[0] == pytest.approx(float(whole), rel=1e-3)


def test_an_exchange_takes_its_bytes_over_the_slower_side():
    # Mixtral picks 2 of 8 experts, one a device: a token of 4096 x 2 B and 16 B of routing goes to two of them
    asked = system({"bandwidth": "40 GB/s", "latency": "5 us"})
    assert asked.ffn is not None
    one = asked.ffn.there
    assert one.visited == pytest.approx(2.0)
    assert one.busiest == pytest.approx(0.25)
    size = 4096 * 2 + 16
    assert float(one.time_s(1024)) == pytest.approx(5e-6 + 1024 * 2 * size / 8 / 40e9)
    assert float(one.sent_bytes(1024)) == pytest.approx(1024 * 2 * size)
    # four devices of two experts each: a token visits 4 (1 - C(6,2)/C(8,2)) of them, and a device takes more than it
    # receives from one of eight
    few = system({"devices": 4, "bandwidth": "40 GB/s", "latency": "0 s"}).ffn
    assert few is not None
    visited = 4 * (1 - math.comb(6, 2) / math.comb(8, 2))
    assert few.there.visited == pytest.approx(visited)
    assert float(few.back.time_s(1024)) == pytest.approx(1024 * visited * size / 4 / 40e9)


def test_bytes_that_leave_are_bytes_that_arrive():
    for load in ("uniform", "zipf:0.8"):
        ffn = system(model="qwen3-30b-a3b", expert_load=load).ffn
        assert ffn is not None
        group = ffn.costs.routed[0].visits.rank  # type: ignore[attr-defined]
        per_device = [float(share) for share in group]
        assert sum(per_device) == pytest.approx(ffn.there.visited, rel=0.02)
        assert ffn.there.busiest >= ffn.there.visited / ffn.devices * (1 - 1e-9)
    assert ffn.there.busiest > 1.2 * ffn.there.visited / ffn.devices


@pytest.mark.parametrize("micro_batches", [1, 2, 3, 5])
def test_more_bandwidth_and_less_latency_are_never_slower(micro_batches):
    def seconds(**ffn: Any) -> float:
        return at_context(steps_of({"micro_batches": micro_batches, **ffn}), 1024, 2048.0)[0]

    by_bandwidth = [seconds(bandwidth=f"{size} GB/s") for size in (5, 20, 50, 200, 1000)]
    assert by_bandwidth == sorted(by_bandwidth, reverse=True)
    assert by_bandwidth[0] > by_bandwidth[-1]
    by_latency = [seconds(latency=f"{size} us") for size in (200, 50, 5, 0)]
    assert by_latency == sorted(by_latency, reverse=True)


def test_waiting_hides_behind_more_micro_batches_until_the_slowest_stage_never_waits():
    # exchanges slow enough to matter and stages of which none depends on the batch would give S L, then b m L
    slow = {"bandwidth": "20 GB/s"}
    one, two = (at_context(steps_of({**slow, "micro_batches": m}), 2048, 2048.0)[0] for m in (1, 2))
    assert two < 0.8 * one


def test_joules_are_those_of_both_groups():
    steps = steps_of({"hardware": "h200-sxm", "devices": 4})
    own, other = steps.costs, steps.ffn.costs
    assert (own.gpu.name, other.gpu.name) == ("h100-sxm", "h200-sxm")
    assert steps.idle_w == 8 * own.power.idle_w + 4 * other.power.idle_w
    assert steps.active_idle_w == 8 * own.gpu.power.active_idle.value + 4 * other.gpu.power.active_idle.value
    values = dict(zip(("time", *steps.components), at_context(steps, 48, 2048.0), strict=True))
    static = 8 * own.power.static_w + 4 * other.power.static_w
    assert values["static"] == pytest.approx(static * values["time"], rel=1e-3)
    # three micro-batches of 2 of the 6 sequences of a rank, far from the power cap
    experts = np.array(steps.ffn.rows.at(2 * 8))
    fixed, by_window = steps.tables.decode(2)
    window = by_window[math.inf]
    context = np.array([np.interp(2048, steps.tables.knots, column) for column in window.T])
    attention = np.add(steps.tables.tokens.at(2), fixed) + context
    head = np.array(steps.tables.head.at(6))
    for name, column in (("memory", MEMORY), ("compute", COMPUTE)):
        expected = 8 * (3 * attention[column] + head[column]) + 4 * 3 * experts[column]
        sampled = steps.overhead(6, 48)
        expected += 8 * sampled.sampling_s * sampled.sampling_w * (name == "memory")
        assert values[name] == pytest.approx(expected, rel=1e-3)
    moved = 3 * 32 * (steps.ffn.there.energy_j(2 * 8) + steps.ffn.back.energy_j(2 * 8))
    assert values["link"] == pytest.approx(float(moved), rel=1e-6)


def test_no_group_draws_more_than_its_caps_in_the_mean():
    free, capped = (steps_of(power={"cap": f"{watts} W"}) for watts in (700, 400))
    # beside short contexts the experts' devices work hardest
    before, after = (at_context(steps, 4096, 1.0) for steps in (free, capped))
    drawn = [(sum(one[1:3]) + one[4]) / one[0] / 16 for one in (before, after)]
    assert drawn[1] <= 400 < drawn[0]
    assert after[0] > 1.1 * before[0]
    assert after[2] == pytest.approx(before[2])


def test_experts_and_cache_are_on_different_devices():
    own = system()
    whole = single_pool(Scenario.of({
        "model": "mixtral-8x7b", "deployment": {"hardware": "h100-sxm", "dp": 8, "ep": 8},
        "workload": {"kind": "static", "batch": 8, "context": "1 tok"}}))  # fmt: skip
    # Mixtral: 32 layers x 8 experts x 3 x 4096 x 14336 weights of 2 B, an eighth on each device
    assert own.expert_bytes == 32 * 3 * 4096 * 14336 * 2
    assert own.memory.weight_bytes == pytest.approx(whole.memory.weight_bytes - own.expert_bytes)
    assert own.memory.kv_blocks > whole.memory.kv_blocks
    assert own.devices == 16


def test_nothing_is_computed_twice_or_left_out():
    batch = Batch(decode=128.0, context=2048.0)
    split = step(system({"micro_batches": 1}).steps, "decode", batch)
    whole = single_pool(Scenario.of({
        "model": "mixtral-8x7b", "deployment": {"hardware": "h100-sxm", "dp": 8, "ep": 8},
        "workload": {"kind": "static", "batch": 8, "context": "1 tok"}}))  # fmt: skip
    other = step(whole.steps, "decode", batch)
    assert sorted(item.task.part for item in split.priced) == sorted(item.task.part for item in other.priced)
    flop = [sum(item.task.count * float(np.sum(item.cost.flop)) for item in one.priced) for one in (split, other)]
    assert flop[0] == pytest.approx(flop[1])


def test_a_lone_request_of_a_simulation_takes_the_estimated_step():
    work = {"arrivals": {"kind": "deterministic", "rate": "0.05 /s"}, "requests": 5,
            "lengths": {"kind": "fixed", "prompt": "64 tok", "output": "65 tok"}}  # fmt: skip
    asked = scenario(workload=work)
    found, steps = simulate(asked), single_pool(asked).steps
    assert found.summary["tpot_s"]["mean"] == pytest.approx(at_context(steps, 1, 96.5)[0], rel=1e-3)
    assert found.manifest["devices"] == 16
    assert estimate(asked).summary["tpot_s"]["mean"] == pytest.approx(found.summary["tpot_s"]["mean"], rel=0.05)


def test_the_table_of_ops_names_the_roof_of_the_chip_that_runs_them():
    run = estimate(scenario({"hardware": "h200-sxm"}))
    ops = run.tables["ops"]
    roofs = {part: float(roof) for part, roof in zip(ops["part"], ops["peak_bytes_per_s"], strict=True)}
    assert roofs["moe.experts"] == 4.8e12
    assert roofs["attention.core"] == 3.35e12
    assert run.summary["provenance"]["all"]["ffn"]["hardware"] == "h200-sxm"


def test_stretched_curves_scale_time_and_not_dynamic_joules():
    steps = steps_of()
    slow = replace(steps, stretch=1.2, _curves={})
    one, other = (dict(zip(("t", *steps.components), at_context(s, 512, 1000.0), strict=True)) for s in (steps, slow))
    assert 1.1 * one["t"] < other["t"] < 1.2 * one["t"] * (1 + 1e-9)
    assert other["memory"] == pytest.approx(one["memory"])


@pytest.mark.parametrize(
    ("deployment", "said"),
    [
        ({"ep": 8}, "ep: the experts' ranks are ffn.ep"),
        ({"pp": 2}, "pp: pipeline stages"),
        ({"topology": "h100-cluster"}, "topology: say ffn.bandwidth"),
        ({"overlap": {"two_batch": True}}, "overlap: micro-batches already"),
        ({"ffn": {"devices": 8, "ep": 3}}, "ep 3 does not divide the 8 devices"),
        ({"ffn": {"devices": 0}}, "deployment.ffn.devices"),
        ({"ffn": {"devices": 8, "hardware": "h100"}}, "deployment.ffn.hardware: .*h100-sxm"),
        ({"ffn": {"devices": 3}}, "8 experts do not divide among 3 ranks"),
        ({"ffn": {"devices": 8, "hardware": "loihi2"}}, "deployment.ffn.hardware: loihi2"),
    ],
)
def test_what_does_not_go_with_it_is_refused_at_its_place(deployment: dict[str, Any], said: str):
    with pytest.raises(InputError, match=said):
        single_pool(scenario(deployment=deployment))


def test_models_and_steps_that_it_is_not_for_are_refused():
    with pytest.raises(InputError, match=r"deployment\.ffn: llama-3.1-8b: has no routed experts"):
        system(model="llama-3.1-8b")
    training = {"kind": "training", "sequence": "2048 tok", "micro_batch": 1, "global_batch": 8}
    with pytest.raises(InputError, match="training steps of split replicas"):
        system(workload=training)
    work = {"arrivals": {"kind": "poisson", "rate": "1 /s"}, "requests": 4,
            "lengths": {"kind": "fixed", "prompt": "8 tok", "output": "8 tok"}}  # fmt: skip
    with pytest.raises(InputError, match="op by op knows no ffn devices"):
        simulate(scenario(workload=work, simulation={"detail": "op"}))
    with pytest.raises(DoesNotFitError, match=r"do not fit 1 x h100-sxm.*\n.*\n.*\n.*\n  they would fit 2 devices"):
        _ = system({"devices": 1}).memory


def test_event_driven_chips_have_no_such_devices():
    chip = {"hardware": "loihi2", "ffn": {"devices": 8, "hardware": "h100-sxm"}}
    work = {"kind": "static", "phase": "decode", "batch": 1, "context": "1 tok"}
    asked = {"model": "mmfreelm-370m", "deployment": chip, "workload": work, "densities": "mmfreelm-370m-lambda2"}
    with pytest.raises(InputError, match=r"deployment\.ffn: has no meaning on loihi2"):
        estimate(Scenario.of(asked))
