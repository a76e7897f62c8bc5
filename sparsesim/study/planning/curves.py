"""Steps of one layout as curves over the number of decoding sequences: all that screening asks of the cost core.

The core is asked once for each kind of part (tokens, heads, decoding, prompt chunks) with every number of sequences
and every token budget in one array; power caps only finish what was priced.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from sparsesim.cost.accumulate import Floats, finished_one, price, totals
from sparsesim.cost.power import PowerModel
from sparsesim.cost.step import ReplicaSteps
from sparsesim.work import Task

CONTEXTS = 9
"""Contexts over which a decode iteration is averaged, from the first token's to the last one's."""
LEAST_ROOM = 1 / 4
"""Share of the token budget that prompts get at the least in these curves; a batch that fills the budget is slower."""


@dataclass(frozen=True, slots=True)
class Load:
    """Mean lengths of a workload's requests, in tokens."""

    prompt_tok: int
    output_tok: float

    @property
    def contexts(self) -> Floats:
        """Tokens attended from the first decode iteration of a request to its last."""
        first = self.prompt_tok + 1.0
        return np.linspace(first, first + max(self.output_tok - 2.0, 0.0), CONTEXTS)


@dataclass(frozen=True, slots=True)
class Priced:
    """A layout's parts before engine and cap, rows as `accumulate.totals`.

    `decode` [n, 7] decodes `sequences` [n]. `prompt` [steps, 7] are the steps that compute the mean prompt beside them:
    `place` [steps, 2] says for which token budget and which number of sequences, `tokens` [steps] how many a rank has.
    `full` [budgets, 7] are steps of nothing but prompts that fill the budget, of `prompts` [budgets] mean prompts each.
    """

    sequences: Floats
    budgets: int
    decode: Floats
    prompt: Floats
    place: npt.NDArray[np.intp]
    tokens: Floats
    full: Floats
    prompts: Floats
    full_tokens: Floats


@dataclass(frozen=True, slots=True)
class Curves:
    """Values (seconds, joules by component) of all devices of a replica over `sequences`, [n] from 0.

    `decode` [n, 5] is an iteration of so many sequences (that of one at 0), `prompt` [budgets, n, 5] the iterations
    of one mean prompt beside them, `iterations` [budgets, n] their number. `full` [budgets, 5] is one mean prompt's
    share of steps that prompts fill.
    """

    sequences: Floats
    decode: Floats
    prompt: Floats
    iterations: Floats
    full: Floats
    idle_w: float
    active_idle_w: float


def grid(most: int) -> Floats:
    """0 and numbers of sequences growing by about a quarter, up to `most`."""
    powers = np.arange(0.0, math.log2(max(most, 2)), 1 / 3)
    numbers = np.unique(np.round(2.0**powers))
    return np.concatenate([[0.0], numbers[numbers < most], [float(most)]])


def priced(steps: ReplicaSteps, load: Load, budgets: Sequence[int], most: int) -> Priced:
    """The parts of a layout for batches up to `most` and every token budget.

    Ranks of dp and stages of pp share the prompts of a full step as they share its tokens (`ReplicaSteps.mixed_at`).
    """
    model, setting = steps.model, steps.setting
    groups = setting.dp * setting.pp
    n = grid(most)
    held = np.ceil(np.maximum(n, 1.0) / groups)  # a row of no sequences is taken for one of one
    contexts = np.append(load.contexts, load.contexts.mean())
    by_context = _sum(steps, model.decode_tasks(held[:, None], contexts[None, :], setting), (len(n), len(contexts)))
    others = np.where(n[:, None] > 0, by_context[:, -1], 0.0)
    place, q, kv = _chunks(load.prompt_tok, n, budgets)
    beside = n[place[:, 1]]
    tokens = np.ceil((beside + q) / groups)
    sampled = np.ceil((beside + (kv >= load.prompt_tok)) / groups)
    prompts = np.asarray(budgets, float) / load.prompt_tok
    full_tokens, full_sampled = np.ceil(np.asarray(budgets, float) / groups), np.ceil(prompts / groups)
    all_tokens = np.concatenate([held, tokens, full_tokens])
    all_sampled = np.concatenate([held, sampled, full_sampled])
    by_tokens = _sum(steps, model.token_tasks(all_tokens, setting), all_tokens.shape)
    by_sampled = _sum(steps, model.head_tasks(all_sampled, setting), all_sampled.shape)
    chunks = _sum(steps, model.chunk_tasks(1.0, q, kv, setting), q.shape)
    first, last = len(n), len(n) + len(place)
    shared = (by_tokens + by_sampled)[:last]
    share = np.clip(prompts, 1.0, groups)
    alone = [np.flatnonzero((place == (row, 0)).all(axis=1)) for row in range(len(budgets))]
    number = np.maximum(prompts / share, 1.0)
    together = [
        _sum(steps, model.chunk_tasks(one, q[rows], kv[rows], setting), rows.shape).sum(axis=0)
        for one, rows in zip(number.tolist(), alone, strict=True)
    ]
    full = by_tokens[last:] + by_sampled[last:] * np.minimum(prompts, 1.0)[:, None]
    return Priced(
        sequences=n,
        budgets=len(budgets),
        decode=shared[:first] + by_context[:, :-1].mean(axis=1),
        prompt=shared[first:] + chunks + others[place[:, 1]],
        place=place,
        tokens=tokens,
        full=full + np.stack(together) * np.minimum(prompts / share, 1.0)[:, None],
        prompts=prompts,
        full_tokens=full_tokens,
    )


def _chunks(prompt_tok: int, n: Floats, budgets: Sequence[int]) -> tuple[npt.NDArray[np.intp], Floats, Floats]:
    """Every chunk of a prompt beside n sequences under each budget: its place, new tokens and tokens attended."""
    budget = np.asarray(budgets, float)[:, None]
    room = np.maximum(budget - n[None, :], np.maximum(np.floor(budget * LEAST_ROOM), 1.0))[..., None]
    number = np.arange(math.ceil(prompt_tok / room.min()), dtype=float)
    done = np.minimum(room * (number + 1), prompt_tok)
    q = done - np.minimum(room * number, prompt_tok)
    inside = np.argwhere(q > 0)
    return inside[:, :2], q[q > 0], done[q > 0]


def _sum(steps: ReplicaSteps, tasks: Sequence[Task], shape: tuple[int, ...]) -> Floats:
    return totals(price(tasks, steps.costs), shape)


def curves(steps: ReplicaSteps, parts: Priced, power: PowerModel) -> Curves:
    """The parts finished under the steps' engine and a power cap."""
    groups = steps.setting.dp * steps.setting.pp
    decode = np.array(
        [
            _finished(steps, total, math.ceil(max(n, 1) / groups), int(max(n, 1)), power)
            for n, total in zip(parts.sequences.tolist(), parts.decode, strict=True)
        ]
    )
    decode[0] = decode[1]
    shape = (parts.budgets, len(parts.sequences))
    prompt, iterations = np.zeros((*shape, decode.shape[1])), np.zeros(shape)
    for (budget, row), total, tokens in zip(parts.place.tolist(), parts.prompt, parts.tokens.tolist(), strict=True):
        prompt[budget, row] += _finished(steps, total, int(tokens), int(parts.sequences[row]) + 1, power)
        iterations[budget, row] += 1
    full = np.array(
        [
            _finished(steps, total, int(tokens), max(math.ceil(prompts), 1), power)
            for total, tokens, prompts in zip(
                parts.full, parts.full_tokens.tolist(), parts.prompts.tolist(), strict=True
            )
        ]
    )
    scale = np.array([1.0, *[steps.devices] * (decode.shape[1] - 1)])
    return Curves(
        sequences=parts.sequences,
        decode=decode * scale,
        prompt=prompt * scale,
        iterations=iterations,
        full=full / parts.prompts[:, None] * scale,
        idle_w=steps.idle_w,
        active_idle_w=steps.active_idle_w,
    )


def _finished(steps: ReplicaSteps, total: Floats, tokens: int, sequences: int, power: PowerModel) -> list[float]:
    return finished_one(total.tolist(), steps.overhead(tokens, sequences), steps.engine, power)
