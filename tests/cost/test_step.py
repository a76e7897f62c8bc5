"""Tabulated steps agree with the cost core, task by task."""

import math

import numpy as np
import pytest

from sparsesim.cost.accumulate import Overhead, engine_seconds, finished, finished_one, price, totals
from sparsesim.cost.breakdown import at_context, bound_shares, half_width, step
from sparsesim.cost.kernel import CostModel
from sparsesim.cost.step import ReplicaSteps
from sparsesim.cost.tables import StepTables
from sparsesim.hardware.engine import load_engine
from sparsesim.model.arch import Batch, Chunk
from sparsesim.model.setting import Setting
from sparsesim.model.zoo import load_model

MODELS = [("llama-3.1-8b", 1), ("qwen3-30b-a3b", 2), ("samba-421m", 1), ("mamba2-2.7b", 1), ("jamba-v0.1", 2)]


def steps_of(costs: CostModel, name: str, tp: int) -> ReplicaSteps:
    model = load_model(name)
    return ReplicaSteps(StepTables(model, Setting(tp=tp, precision=model.precision), costs), load_engine("vllm"), tp)


def direct(steps: ReplicaSteps, batch: Batch, sequences: int) -> list[float]:
    """The step priced from its tasks, nothing tabulated."""
    priced = price(steps.model.tasks(batch, steps.setting), steps.costs)
    total = totals(priced)
    overhead = steps.overhead(round(float(batch.tokens)), sequences)
    values = finished(total, overhead, steps.engine, steps.costs.power)
    values[1:] *= steps.devices
    return list(values)


@pytest.mark.parametrize(("name", "tp"), MODELS)
@pytest.mark.parametrize("sequences", [1, 7, 64, 200])
@pytest.mark.parametrize("context", [3.0, 130.0, 1777.0, 2500.0])
def test_decode_curves_are_within_a_thousandth_of_the_core(
    costs: CostModel, name: str, tp: int, sequences: int, context: float
) -> None:
    steps = steps_of(costs, name, tp)
    expected = direct(steps, Batch(decode=float(sequences), context=context), sequences)
    assert at_context(steps, sequences, context) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(("name", "tp"), MODELS)
def test_a_mixed_step_is_the_sum_of_its_tasks(costs: CostModel, name: str, tp: int) -> None:
    steps = steps_of(costs, name, tp)
    knot = float(steps.knots[len(steps.knots) // 2])
    batch = Batch(decode=5.0, context=knot, chunks=(Chunk(300.0, 300.0), Chunk(100.0, 900.0)), sampled=7.0)
    contexts = tuple(min(knot, window) for window in steps.windows)
    values = steps.mixed(5, contexts, [(300, 300), (100, 900)], 7)
    assert list(values) == pytest.approx(direct(steps, batch, 7), rel=1e-9)


def test_component_energies_add_up_to_power_under_the_cap(costs: CostModel) -> None:
    steps = steps_of(costs, "llama-3.1-8b", 1)
    for tokens in (64, 512, 4096):
        values = steps.mixed(0, (0.0,), [(tokens, tokens)], 1)
        watts = sum(values[1:]) / values[0]
        assert costs.power.static_w < watts <= costs.power.cap_w * (1 + 1e-9)


def test_one_step_in_plain_floats_is_the_vectorised_one(costs: CostModel) -> None:
    engine = load_engine("vllm")
    rng = np.random.default_rng(3)
    for _ in range(50):
        time = rng.uniform(1e-3, 0.1)
        total = np.array(
            [
                time,
                time / 7,
                time / 9,
                time * rng.uniform(),
                700 * time * rng.uniform(),
                300 * time * rng.uniform(),
                0.1,
                300,
            ]
        )
        for graph in (True, False):
            overhead = Overhead(1e-3, 2e-3, 300.0, graph)
            wide = finished(total, overhead, engine, costs.power)
            assert finished_one(total.tolist(), overhead, engine, costs.power) == pytest.approx(list(wide), rel=1e-6)


def test_data_parallel_attention_halves_what_a_rank_holds(costs: CostModel) -> None:
    model, engine = load_model("qwen3-8b"), load_engine("vllm")
    one = ReplicaSteps(StepTables(model, Setting(precision=model.precision), costs), engine, 1)
    two = ReplicaSteps(StepTables(model, Setting(dp=2, precision=model.precision), costs), engine, 2)
    assert at_context(two, 64, 500.0)[0] == pytest.approx(at_context(one, 32, 500.0)[0], rel=1e-6)


def test_a_breakdown_explains_its_step(costs: CostModel) -> None:
    steps = steps_of(costs, "qwen3-30b-a3b", 2)
    one = step(steps, "decode", Batch(decode=16.0, context=1000.0))
    kernels = sum(engine_seconds(item, steps.engine) + item.task.count * steps.engine.gap.value for item in one.priced)
    overhead = steps.overhead(16, 16)
    assert one.time_s == pytest.approx(kernels + overhead.host_s + overhead.sampling_s, rel=0.01)
    assert sum(bound_shares(steps, one.priced).values()) == pytest.approx(1.0)
    assert 0 < half_width(steps, one.priced, one.time_s) < 0.7
    assert math.isclose(sum(one.energy_j.values()), sum(at_context(steps, 16, 1000.0)[1:]), rel_tol=1e-9)


def test_a_kept_mixed_step_is_the_one_computed_from_the_tables(costs: CostModel) -> None:
    steps, rng = steps_of(costs, "qwen3-30b-a3b", 2), np.random.default_rng(7)
    for _ in range(60):
        decode, chunk = int(rng.integers(0, 128)), int(rng.integers(1, 2048))
        context = (float(rng.uniform(2, 30_000)),) if decode else (0.0,)
        asked = (decode, context, [(chunk, chunk + int(rng.integers(0, 3)) * 512)], decode + 1)
        direct = list(steps.mixed_at(*asked))
        assert list(steps.mixed(*asked)) == pytest.approx(direct, rel=1e-3)
        assert steps.mixed(*asked) == steps.mixed(*asked)
