"""The closed form: what a deployment does in the mean, without simulating a queue.

A replica that takes lam requests/s of prompts p and outputs o holds, by Little's law, B = lam (o - 1) TPOT decoding
sequences. A decode iteration takes T_d, and every prompt lengthens the iterations it shares by D, so that

    TPOT = T_d(1 + B) / (1 - lam D),      B = lam (o - 1) TPOT

which has one root below saturation. A request sees its own sequence beside the B others. Its first token comes with
its prompt's own iterations, after the rest of the one under way. A decode replica computes no prompts (D = 0), and
pools of prefill and decode add the way between them (`sparsesim.handover`). What only a queue produces (percentiles,
bursts) is the simulation's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sparsesim.cost.accumulate import COMPONENTS, Floats
from sparsesim.cost.breakdown import Step, at_context, mean_decode, step
from sparsesim.cost.step import ReplicaSteps
from sparsesim.errors import InputError, Problem
from sparsesim.event_driven import device_of, estimate_event_driven
from sparsesim.handover import Gaps, transfer_s
from sparsesim.metrics.energy import CLOCK_HOLD_S
from sparsesim.model.arch import Batch, Chunk
from sparsesim.run import Run, completed
from sparsesim.scenario import KvTransfer, Scenario, place
from sparsesim.system import PoolSystem, background, single_pool, systems
from sparsesim.training import estimate_training
from sparsesim.workload import RequestTable, generate
from sparsesim.workload.kinds.static import Static
from sparsesim.workload.kinds.training import Training


@dataclass(frozen=True, slots=True)
class Operating:
    """Means of one replica under a load."""

    ttft_s: float
    tpot_s: float
    e2e_s: float
    running: float
    utilisation: float
    requests_per_s: float
    energy_w: dict[str, float]
    saturated: bool


@dataclass(frozen=True, slots=True)
class Load:
    """Requests per second and replica, and their mean lengths in tokens; whether their prompts are computed here."""

    rate_per_s: float
    prompt_tok: float
    output_tok: float
    prompts: bool = True


def estimate(scenario: Scenario) -> Run:
    """The closed form of a scenario: means in `summary`, a step of each phase op by op in the table `ops`.

    Raises:
        InputError: something the scenario names is not known.
        DoesNotFitError: the model does not fit its devices.

    """
    chips = device_of(scenario)
    if chips is not None:
        return estimate_event_driven(scenario, chips)
    if scenario.simulation.detail == "op":
        hint = "sparsesim run, or --set simulation.detail=step"
        raise InputError(Problem("an estimate is a closed form, not op by op", path="simulation.detail", hint=hint))
    if isinstance(scenario.workload, Training):
        return estimate_training(scenario, single_pool(scenario), scenario.workload)
    if isinstance(scenario.workload, Static):
        return _static(scenario, single_pool(scenario), scenario.workload)
    pools = systems(scenario)
    last = pools.get("decode") or pools["all"]
    decoding = last.pool.replicas / sum(system.pool.replicas for system in pools.values())
    table = generate(scenario.workload, scenario.simulation.seed, 0, scenario.folder)
    answer = _answer(scenario, pools, table)
    load = _load(table, answer)
    at = answer(load)
    phases = pool_phases(pools, load, at.running)
    output = at.requests_per_s * load.output_tok
    summary: dict[str, Any] = {
        "ttft_s": {"mean": at.ttft_s},
        "tpot_s": {"mean": at.tpot_s},
        "e2e_s": {"mean": at.e2e_s},
        "requests_per_s": at.requests_per_s,
        "output_tok_per_s": output,
        "total_tok_per_s": output + at.requests_per_s * load.prompt_tok,
        "running": at.running * decoding,
        "utilisation": at.utilisation,
        "saturated": at.saturated,
        "kv_blocks": last.memory.kv_blocks,
        "duration_s": 1.0,
        "energy_j": sum(at.energy_w.values()),
        "energy_by_component_j": at.energy_w,
        "j_per_output_tok": sum(at.energy_w.values()) / output if output else None,
        "power_w": sum(at.energy_w.values()),
        "scope": "gpu",
        "intervals": intervals(at, phases),
    }
    rests_on = background(scenario, pools, phases)
    rests_on = replace(rests_on, assumptions=[*rests_on.assumptions, *left_out(scenario)])
    return completed("estimate", scenario, summary, {}, rests_on)


Answer = Callable[[Load], Operating]
"""Means of a whole deployment under the rate of all its requests; `running` is of one replica."""


def _answer(scenario: Scenario, pools: Mapping[str, PoolSystem], table: RequestTable) -> Answer:
    """How the deployment answers a load."""
    if "all" in pools:
        system = pools["all"]
        return lambda load: _times(operating(system, _each(system, load)), system.pool.replicas)
    gaps = Gaps.of(table.prompt_tok, table.output_tok, 50.0)
    settings = scenario.deployment.transfer or KvTransfer()
    return lambda load: operating_pools(pools, load, settings, gaps)


def _each(system: PoolSystem, load: Load, prompts: bool = True) -> Load:
    """A replica's part of a load."""
    return replace(load, rate_per_s=load.rate_per_s / system.pool.replicas, prompts=prompts)


def _times(one: Operating, replicas: int) -> Operating:
    """So many replicas alike."""
    energy = {name: watts * replicas for name, watts in one.energy_w.items()}
    return replace(one, requests_per_s=one.requests_per_s * replicas, energy_w=energy)


def operating_pools(pools: Mapping[str, PoolSystem], load: Load, settings: KvTransfer, gaps: Gaps) -> Operating:
    """Means of pools of prefill and decode under the rate of all requests; they take what the lesser of them takes.

    Raises:
        InputError: nothing links the pools.

    """
    prefill, decode = pools["prefill"], pools["decode"]
    for system in pools.values():
        _check_drafts_nothing(system)
    first, most = _prompts_alone(prefill, _each(prefill, load))
    then = operating(decode, _each(decode, load, prompts=False))
    counts = [system.pool.replicas for system in (prefill, decode)]
    served = min(load.rate_per_s, most * counts[0], then.requests_per_s * counts[1])
    before_s, moving_s, most_moved = transfer_s(pools, settings, load.prompt_tok, served)
    energy = [_times(one, count).energy_w for one, count in zip((first, then), counts, strict=True)]
    joining_s = before_s + then.ttft_s
    return Operating(
        ttft_s=first.ttft_s,
        tpot_s=then.tpot_s + gaps.mean * joining_s + gaps.mean_by_prompt * moving_s,
        e2e_s=first.ttft_s + joining_s + moving_s + then.tpot_s * max(load.output_tok - 1, 0),
        running=then.running,
        utilisation=(first.utilisation * counts[0] + then.utilisation * counts[1]) / sum(counts),
        requests_per_s=min(served, most_moved),
        energy_w={name: energy[0][name] + energy[1][name] for name in energy[0]},
        saturated=first.saturated or then.saturated or served >= most_moved,
    )


def _prompts_alone(system: PoolSystem, load: Load) -> tuple[Operating, float]:
    """Means of a prefill replica, and the most prompts/s it takes: as many as steps full of them hold."""
    prompt, budget = max(round(load.prompt_tok), 1), token_budget(system)
    own, _ = prefill(system.steps, prompt, budget, 0, 0.0)
    together = max(budget // prompt, 1)
    full = own
    if together > 1:
        full = np.array(system.steps.mixed(0, (0.0,), [(prompt, prompt)] * together, together)) / together
    rate = min(load.rate_per_s, 1.0 / float(full[0]))
    busy = min(rate * float(own[0]), 1.0)
    energy = dict(zip(COMPONENTS, (rate * own[1:]).tolist(), strict=True))
    energy["static"] += _idle_w(system.steps, busy, rate)
    seconds = float(own[0])
    return Operating(seconds, 0.0, seconds, 0.0, busy, rate, energy, rate < load.rate_per_s), 1.0 / float(full[0])


def left_out(scenario: Scenario) -> list[str]:
    """What the scenario asks for that only the simulation takes into account, in sentences."""
    deployment = scenario.deployment
    keys = [f"deployment.{name}" for name in ("faults", "autoscale", "admission") if getattr(deployment, name)]
    for name, pool in deployment.by_name().items():
        asked = [one for one in ("speculation", "preemption", "policy") if one in pool.scheduler.model_fields_set]
        keys += [f"{place(name)}.scheduler.{one}" for one in asked]
        keys += [f"{place(name)}.memory.prefix_cache"] if pool.memory.prefix_cache else []
    keys += ["slo.classes"] if scenario.slo.classes else []
    return [f"the closed form takes no account of {', '.join(keys)}: the simulation does"] if keys else []


def intervals(at: Operating, phases: Mapping[str, Step]) -> dict[str, dict[str, Any]]:
    """90 % intervals of the mean latencies from those of the kernels and the engine."""
    of = {"ttft_s.mean": (at.ttft_s, "prefill"), "tpot_s.mean": (at.tpot_s, "decode")}
    return {
        name: {
            "low": value * math.exp(-phases[phase].half_width),
            "high": value * math.exp(phases[phase].half_width),
            "level": 0.9,
            "source": "kernel classes and engine",
        }
        for name, (value, phase) in of.items()
        if phase in phases
    }


def _load(table: RequestTable, answer: Answer) -> Load:
    """The rate of all requests and their mean lengths."""
    if len(table) == 0:
        raise InputError(Problem("asks for no request", path="workload"))
    prompt, output = float(table.prompt_tok.mean()), float(table.output_tok.mean())
    if table.concurrency is not None:
        return _closed_loop(answer, table.concurrency, prompt, output)
    span = float(table.arrival_s[-1] - table.arrival_s[0])
    return Load((len(table) - 1) / span if span > 0 else math.inf, prompt, output)


def _closed_loop(answer: Answer, users: float, prompt: float, output: float) -> Load:
    """The rate at which `users` requests are in flight: each comes when one ends."""
    from scipy.optimize import brentq

    def surplus(log_rate: float) -> float:
        at = answer(Load(math.exp(log_rate), prompt, output))
        return math.exp(log_rate) * at.e2e_s - users

    rate = math.exp(float(brentq(surplus, math.log(1e-6), math.log(1e6), xtol=1e-6)))
    return Load(rate, prompt, output)


def _static(scenario: Scenario, system: PoolSystem, workload: Static) -> Run:
    """One step of a fixed batch; the batch is spread evenly over the replica's attention ranks."""
    context = float(workload.context)
    held = math.ceil(workload.batch / (system.setting.dp * system.setting.pp))
    if workload.phase == "decode":
        one = step(system.steps, "decode", Batch(decode=held, context=context))
        tokens = workload.batch
    else:
        one = step(system.steps, "prefill", Batch(chunks=(Chunk(context, context),) * held, sampled=held))
        tokens = round(workload.batch * context)
    _ = system.memory
    energy = sum(one.energy_j.values())
    bounds = [one.time_s * math.exp(sign * one.half_width) for sign in (-1, 1)]
    summary = {
        "step_s": one.time_s,
        "tok_per_s": tokens / one.time_s * system.pool.replicas,
        "duration_s": one.time_s,
        "output_tok_per_s": workload.batch / one.time_s * system.pool.replicas,
        "energy_j": energy * system.pool.replicas,
        "energy_by_component_j": {k: v * system.pool.replicas for k, v in one.energy_j.items()},
        "j_per_tok": energy / tokens,
        "power_w": energy / one.time_s * system.pool.replicas,
        "kv_blocks": system.memory.kv_blocks,
        "scope": "gpu",
        "intervals": {"step_s": {"low": bounds[0], "high": bounds[1], "level": 0.9, "source": "kernel classes"}},
    }
    phases: dict[str, Step] = {workload.phase: one}
    rests_on = background(scenario, {"all": system}, phases)
    rests_on = replace(rests_on, assumptions=[*rests_on.assumptions, *_beyond(system, workload, held)])
    return completed("estimate", scenario, summary, {}, rests_on)


def _beyond(system: PoolSystem, workload: Static, held: int) -> list[str]:
    """In which way a step lies outside of what the deployment could run; it is costed all the same."""
    plan, context = system.memory, float(workload.context)
    sequences = held * system.setting.dp * system.setting.pp
    needed = sequences * math.ceil(context / plan.block_tok) * len(plan.kv_windows)
    lines = []
    if needed > plan.kv_blocks:
        holds = f"the replica holds {plan.kv_blocks:,}"
        lines.append(f"{system.model.name}: the batch fits, which it does not: it needs {needed:,} KV blocks, {holds}")
    if context > system.model.max_context:
        most = system.model.max_context
        lines.append(f"{system.model.name}: {context:,.0f} tok of context work, beyond the model's {most:,} tok")
    return lines


def phase_steps(system: PoolSystem, load: Load, running: float) -> dict[str, Step]:
    """A prefill step of the mean prompt and a decode step of the mean batch at its mean context."""
    groups = system.setting.dp * system.setting.pp
    prompt = min(max(round(load.prompt_tok), 1), token_budget(system))
    decode = max(math.ceil(running / groups), 1)
    context = load.prompt_tok + load.output_tok / 2
    return {
        "prefill": step(system.steps, "prefill", Batch(chunks=(Chunk(prompt, prompt),), sampled=1)),
        "decode": step(system.steps, "decode", Batch(decode=decode, context=context)),
    }


def pool_phases(pools: Mapping[str, PoolSystem], load: Load, running: float) -> dict[str, Step]:
    """A typical step of each phase, on the pool that computes it."""
    by_pool = {name: phase_steps(system, load, running) for name, system in pools.items()}
    return {phase: by_pool.get(phase, by_pool.get("all", {}))[phase] for phase in ("prefill", "decode")}


def token_budget(system: PoolSystem) -> int:
    """Tokens of a step at most; a scheduler without a budget takes whole prompts."""
    return int(getattr(system.pool.scheduler, "token_budget", system.model.max_context))


def _idle_w(steps: ReplicaSteps, busy: float, rate_per_s: float) -> float:
    """Mean power between steps: gaps last (1 - busy)/rate, exponential; clocks stay up for CLOCK_HOLD_S of each."""
    gap = (1 - busy) / rate_per_s if rate_per_s > 0 else math.inf
    dropped = math.exp(-CLOCK_HOLD_S / gap) if gap > 0 else 0.0
    return (1 - busy) * (steps.active_idle_w * (1 - dropped) + steps.idle_w * dropped)


def prefill(steps: ReplicaSteps, prompt: int, budget: int, decode: int, context: float) -> tuple[Floats, int]:
    """Values of the iterations that compute one prompt beside `decode` sequences, and their number."""
    total = np.zeros(1 + len(COMPONENTS))
    contexts = tuple(min(context, window) for window in steps.windows)
    done, number, room = 0, 0, max(budget - decode, 1)
    while done < prompt:
        chunk = min(room, prompt - done)
        done, number = done + chunk, number + 1
        total += steps.mixed(decode, contexts, [(chunk, done)], decode + (done == prompt))
    return total, number


def operating(system: PoolSystem, load: Load) -> Operating:
    """Means of one replica under a load.

    Raises:
        InputError: it decodes speculatively.

    """
    _check_drafts_nothing(system)
    most = float(system.max_running)
    served = _Served(system, load)
    saturated = served.surplus(most) > 0
    running = most if saturated else served.root(most)
    return served.at(running, saturated)


def _check_drafts_nothing(system: PoolSystem) -> None:
    if system.speculation is not None:
        text = "speculative decoding is simulated, not estimated"
        path = f"{place(system.name)}.scheduler.speculation"
        raise InputError(Problem(text, path=path, hint="sparsesim run"))


@dataclass(frozen=True, slots=True)
class _Served:
    system: PoolSystem
    load: Load

    @property
    def _contexts(self) -> tuple[float, float]:
        first = self.load.prompt_tok + 1
        return first, first + max(self.load.output_tok - 2, 0)

    def _iterations(self, others: float) -> tuple[Floats, Floats, float]:
        """A decode iteration, a prompt's iterations, and the share of time by which prompts lengthen decoding."""
        steps, (first, last) = self.system.steps, self._contexts
        prompt = max(round(self.load.prompt_tok), 1)
        decode = mean_decode(steps, 1 + others, first, last)
        if not self.load.prompts:
            return decode, np.zeros_like(decode), 0.0
        own, number = prefill(steps, prompt, token_budget(self.system), round(others), (first + last) / 2)
        beside = mean_decode(steps, others, first, last)[0] * min(others, 1.0)
        return decode, own, self.load.rate_per_s * max(float(own[0]) - number * float(beside), 0.0)

    def surplus(self, others: float) -> float:
        """Sequences that would be decoding with `others` there, above `others`."""
        decode, _, slower = self._iterations(others)
        if slower >= 1 or math.isinf(self.load.rate_per_s):
            return math.inf
        return self.load.rate_per_s * max(self.load.output_tok - 1, 0) * float(decode[0]) / (1 - slower) - others

    def root(self, most: float) -> float:
        """The number of decoding sequences that reproduces itself."""
        from scipy.optimize import brentq

        return float(brentq(lambda b: min(self.surplus(b), 1e9), 0.0, most, xtol=1e-9, rtol=1e-9))

    def at(self, running: float, saturated: bool) -> Operating:
        """Means with `running` decoding sequences."""
        steps, tokens = self.system.steps, max(self.load.output_tok - 1, 0)
        decode, own, slower = self._iterations(running)
        if saturated:
            cycle = tokens * float(decode[0]) / running + float(own[0]) - self._shared(running)
            rate = 1.0 / max(cycle, 1e-12)
            tpot = running / (rate * tokens) if tokens else float(decode[0])
        else:
            rate, tpot = self.load.rate_per_s, float(decode[0]) / (1 - slower)
        decoding = 1.0 - math.exp(-running)
        prefilling = min(rate * float(own[0]), 1.0)
        busy = min(1.0, prefilling + decoding * (1 - prefilling))
        ttft = float(own[0]) + decoding * float(decode[0]) / 2
        static = _idle_w(steps, busy, rate)
        joules = rate * own[1:] + decode[1:] / decode[0] * (busy - prefilling)
        energy = dict(zip(COMPONENTS, joules.tolist(), strict=True))
        energy["static"] += static
        return Operating(ttft, tpot, ttft + tpot * tokens, running, busy, rate, energy, saturated)

    def _shared(self, running: float) -> float:
        """Decode time that goes on inside a prompt's iterations."""
        if not self.load.prompts:
            return 0.0
        first, last = self._contexts
        own = prefill(self.system.steps, max(round(self.load.prompt_tok), 1), token_budget(self.system), 0, first)
        return own[1] * at_context(self.system.steps, max(round(running), 1), (first + last) / 2)[0]
