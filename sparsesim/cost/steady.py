"""A replica kept full: `running` sequences decode all the time, and a new prompt comes whenever one ends.

Every sequence lives for o - 1 iterations, so running / (o - 1) prompts join an iteration in the mean, as many as a
Poisson variable of that mean. An iteration with n prompts takes T(n); tokens are spread evenly over iterations, so
the median gap between two tokens is T at the median of n, taken between the whole numbers where the distribution
passes one half.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sparsesim.cost.accumulate import COMPONENTS, Floats
from sparsesim.cost.breakdown import mean_decode
from sparsesim.cost.step import ReplicaSteps

_TAIL = 1e-6


@dataclass(frozen=True, slots=True)
class Steady:
    """Means of a full replica: gaps between tokens, output rate, and watts by component of its devices."""

    itl_s: float
    median_itl_s: float
    output_tok_per_s: float
    power_w: dict[str, float]


def steady(steps: ReplicaSteps, running: int, prompt_tok: int, output_tok: float, budget_tok: int) -> Steady:
    """A replica with `running` sequences of `prompt_tok` and `output_tok` tokens; prompts share the token budget."""
    joining = running / max(output_tok - 1.0, 1.0)
    chances = _poisson(joining)
    first, last = prompt_tok + 1.0, prompt_tok + max(output_tok - 1.0, 1.0)
    rows = [mean_decode(steps, running, first, last)]
    rows += [
        _with_prompts(steps, running, n, prompt_tok, (first + last) / 2, budget_tok) for n in range(1, len(chances))
    ]
    values = np.stack(rows)
    mean = chances @ values
    power = dict(zip(COMPONENTS, (mean[1:] / mean[0]).tolist(), strict=True))
    return Steady(float(mean[0]), _median(chances, values[:, 0]), running / float(mean[0]), power)


def _poisson(mean: float) -> Floats:
    """Chances of 0, 1, ... up to where the rest is negligible."""
    most = math.ceil(mean + 10 * math.sqrt(mean) + 5)
    numbers = np.arange(most + 1)
    logs = numbers * math.log(max(mean, 1e-300)) - mean - np.array([math.lgamma(n + 1) for n in numbers])
    chances = np.exp(logs)
    kept = max(int(np.searchsorted(np.cumsum(chances), 1 - _TAIL)) + 1, 2)
    return np.asarray(chances[:kept] / chances[:kept].sum())


def _with_prompts(
    steps: ReplicaSteps, running: int, prompts: int, prompt_tok: int, context: float, budget_tok: int
) -> Floats:
    """An iteration with whole prompts, as many as the budget takes; more of them lengthen it in proportion."""
    contexts = tuple(min(context, window) for window in steps.windows)
    fitting = max(min(prompts, (budget_tok - running) // prompt_tok), 1)
    values = np.array(steps.mixed(running, contexts, [(prompt_tok, prompt_tok)] * fitting, running + fitting))
    if fitting == prompts:
        return values
    alone = mean_decode(steps, running, context, context)
    return alone + (values - alone) * (prompts / fitting)


def _median(chances: Floats, times: Floats) -> float:
    """Time at the median of n, linear between the middles of the steps of its distribution."""
    middles = np.cumsum(chances) - chances / 2
    return float(np.interp(0.5, middles, times))
