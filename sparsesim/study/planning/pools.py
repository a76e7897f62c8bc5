"""Screening of pools: every pair of a prefill and a decode pool within the devices, answered at once.

A pool does not see the other one but through the rate, so both are answered on their own, for all their instances,
replicas, limits, caps and loads; pairs only add up. A request's first token comes from its prefill replica,
TTFT = wait + own prompt. Then its KV moves and waits for the end of a decode iteration, once among o - 1 gaps:

    TPOT = T_d(1 + B) + (transfer + T_d / 2) / (o - 1),      B = lam (o - 1) T_d(1 + B)

The deployment takes as many requests as the lesser of the two pools and of the links between them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sparsesim.cost.accumulate import Floats
from sparsesim.handover import kv_bytes
from sparsesim.scenario import KvTransfer
from sparsesim.study.planning.handover import Handover, cards, handover
from sparsesim.study.planning.instances import Instance, caps
from sparsesim.study.planning.money import Rates, mixed
from sparsesim.study.planning.operate import operate
from sparsesim.study.planning.prefill import prefilling
from sparsesim.study.planning.screen import LOADS, Family, Screened
from sparsesim.study.planning.sites import Role
from sparsesim.study.planning.space import Space, Variant

Rows = npt.NDArray[np.intp]
BLIND = ("round_robin",)
"""Routers that send requests on without a look at the replicas."""


@dataclass(frozen=True, slots=True)
class Side:
    """A pool's points as columns, [rows, ...]: `which` instance, replicas, limit, cap and load, then `values`.

    `asked` is the place of the cap in its axis: where it is null, two kinds of devices have caps of their own.

    Values of prefill: own prompt, mean wait, TTFT's percentile, watts and highest rate of a replica. Of decode: wait
    for an iteration, wait for a place (percentile), TPOT, its percentile, sequences, watts and highest rate.
    """

    instances: list[Instance]
    which: Rows
    replicas: Floats
    limit: Floats
    asked: Floats
    cap_w: Floats
    load: Floats
    values: Floats

    @property
    def devices(self) -> Floats:
        """Of all replicas of the pool."""
        return np.array([one.layout.devices for one in self.instances])[self.which] * self.replicas


def pools(
    space: Space, variant: Variant, instances: dict[Role, list[Instance]], first: int
) -> tuple[list[Family], Screened | None]:
    """Families of pairs, numbered from `first`, and all their candidates; none where no pair is within the devices."""
    fitting = {role: [one for one in instances[role] if one.fits] for role in ("prefill", "decode")}
    if not all(fitting.values()):
        return [], None
    sides = _side(space, variant, fitting["prefill"], "prefill"), _side(space, variant, fitting["decode"], "decode")
    i, j = _pairs(space, *sides)
    moved = _moved(variant, sides, i, j)
    reached = moved.most_per_s > 0
    i, j = i[reached], j[reached]
    if not len(i):
        return [], None
    moved = Handover(*(getattr(moved, name)[reached] for name in Handover.__slots__))
    numbers, family = np.unique(np.stack([sides[0].which[i], sides[1].which[j]]), axis=1, return_inverse=True)
    found = [
        Family(first + place, sides[1].instances[two], sides[0].instances[one])
        for place, (one, two) in enumerate(numbers.T.tolist())
    ]
    return found, _joint(variant, sides, i, j, moved, first + family.reshape(-1))


def _side(space: Space, variant: Variant, instances: list[Instance], role: Role) -> Side:
    """All points of a pool."""
    limits = space.axis(role, "token_budget" if role == "prefill" else "max_running")
    columns = [np.concatenate(parts) for parts in zip(*_points(space, variant, instances, limits, role), strict=True)]
    which, replicas, limit, asked, cap_w, load, values = columns
    return Side(instances, which.astype(np.intp), replicas, limit, asked, cap_w, load, values)


def _points(
    space: Space, variant: Variant, instances: list[Instance], limits: list[int], role: Role
) -> Iterator[tuple[Floats, ...]]:
    demand = variant.demand
    for place, one in enumerate(instances):
        for asked, cap_w in caps(space, one.made.gpu).items():
            rows = itertools.product(space.replicas(role, one.layout), limits, LOADS)
            replicas, limit, load = np.array(list(rows), dtype=float).reshape(-1, 3).T
            rate = demand.rate_per_s * load / replicas
            answer = _prefill if role == "prefill" else _decode
            values = answer(one, cap_w, rate, limit, replicas)
            same = [np.full(len(rate), float(value)) for value in (place, asked, cap_w)]
            yield same[0], replicas, limit, same[1], same[2], load, values


def _prefill(one: Instance, cap_w: float, rate: Floats, limit: Floats, replicas: Floats) -> Floats:
    values = np.empty((len(rate), 5))
    alone = one.variant.scenario.deployment.router.kind in BLIND
    servers = np.ones_like(replicas) if alone else replicas
    for budget in np.unique(limit).tolist():
        rows = limit == budget
        place = one.budgets.index(int(budget))
        p = prefilling(one.curves(cap_w), one.variant.demand, rate[rows], servers[rows], place)
        values[rows] = np.stack([p.own_s, p.wait_s, p.high_ttft_s, p.power_w, p.most_per_s], axis=-1)
    return values


def _decode(one: Instance, cap_w: float, rate: Floats, limit: Floats, replicas: Floats) -> Floats:
    """A replica whose prompts cost nothing: `operate` as it is, its TTFT the wait for an iteration."""
    del replicas  # a decode replica's sequences are its own
    over = one.curves(cap_w)
    alone = replace(over, prompt=np.zeros_like(over.prompt), iterations=np.zeros_like(over.iterations))
    p = operate(alone, one.variant.demand, rate, np.minimum(limit, one.held), 0, pausing=False)
    places = np.where(p.saturated, math.inf, p.high_ttft_s) - p.ttft_s
    columns = [p.ttft_s, places, p.tpot_s, p.high_tpot_s, p.running, p.power_w, p.most_per_s]
    return np.stack(columns, axis=-1)


def _pairs(space: Space, prefill: Side, decode: Side) -> tuple[Rows, Rows]:
    """Rows of both sides that go together: one cap, one load, within the devices."""
    found = [(np.zeros(0, np.intp), np.zeros(0, np.intp))]
    for asked, load in itertools.product(range(len(space.axes["cap"])), LOADS):
        one, two = (np.flatnonzero((side.asked == asked) & (side.load == load)) for side in (prefill, decode))
        a, b = np.nonzero(prefill.devices[one][:, None] + decode.devices[two][None, :] <= space.devices)
        found.append((one[a], two[b]))
    first, second = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return first, second


def _moved(variant: Variant, sides: tuple[Side, Side], i: Rows, j: Rows) -> Handover:
    prefill, decode = sides
    settings = variant.scenario.deployment.transfer or KvTransfer()
    prompt = float(variant.demand.load.prompt_tok)
    sizes = np.array([kv_bytes(one.made, prompt) for one in decode.instances])[decode.which[j]]
    return handover(
        (cards(prefill.instances, settings), cards(decode.instances, settings)),
        (prefill.which[i], decode.which[j]),
        (prefill.replicas[i], decode.replicas[j]),
        (prefill.devices[i], decode.devices[j]),
        sizes,
        variant.demand.rate_per_s * prefill.load[i],
    )


def _joint(
    variant: Variant, sides: tuple[Side, Side], i: Rows, j: Rows, moved: Handover, family: npt.NDArray[np.int64]
) -> Screened:
    """Pairs as candidates."""
    prefill, decode = sides
    demand = variant.demand
    own, wait, high_ttft, prefill_w, prefill_most = prefill.values[i].T
    joining, places, step, high_step, running, decode_w, decode_most = decode.values[j].T
    n, m = prefill.replicas[i], decode.replicas[j]
    limits = np.stack([n * prefill_most, m * decode_most, moved.most_per_s])
    most, wanted = limits.min(axis=0), demand.rate_per_s * prefill.load[i]
    saturated = wanted >= most
    infinite = np.where(saturated, np.inf, 1.0)
    fixed, gaps, tokens = moved.latency_s + joining, demand.gaps, max(demand.load.output_tok - 1.0, 0.0)
    tpot = step + gaps.mean * fixed + gaps.mean_by_prompt * moved.moving_s
    high_tpot = high_step + gaps.high * fixed + gaps.high_by_prompt * moved.moving_s + gaps.mean * places
    handed = fixed + moved.moving_s
    e2e = own + handed + step * tokens
    high_e2e = high_ttft + handed + places + high_step * tokens * demand.long_output
    devices = prefill.devices[i], decode.devices[j]
    rates = mixed(
        [(_rates(side), side.which[rows], own) for side, rows, own in zip(sides, (i, j), devices, strict=True)]
    )
    made = np.minimum(wanted, most) * demand.load.output_tok
    total = devices[0] + devices[1]
    return Screened(
        family=family,
        replicas=m.astype(np.int64),
        prefill_replicas=n.astype(np.int64),
        max_running=decode.limit[j].astype(np.int64),
        token_budget=prefill.limit[i].astype(np.int64),
        scheduler=np.full(len(i), "continuous", dtype="<U12"),
        cap_w=np.maximum(prefill.cap_w[i], decode.cap_w[j]),
        load=prefill.load[i],
        devices=total.astype(np.int64),
        mean=np.stack([own, tpot, e2e], axis=-1),
        high=np.stack([high_ttft, np.maximum(high_tpot, tpot), high_e2e], axis=-1) * infinite[:, None],
        running=running,
        most_per_s=most,
        wanted_per_s=wanted,
        saturated=saturated,
        bottleneck=np.array(["prefill", "decode", "transfer"])[limits.argmin(axis=0)],
        objectives=rates.objectives(n * prefill_w + m * decode_w, total, made, e2e + wait),
    )


def _rates(side: Side) -> Sequence[Rates]:
    return [one.rates for one in side.instances if one.rates is not None]
