"""Why a family of candidates is not the answer: what it lacks, and by how much."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from sparsesim.cost.memory import GIB
from sparsesim.study.planning.finalists import Finalist, Search, limits_by_family, rank
from sparsesim.study.planning.instances import Instance
from sparsesim.study.planning.money import LABELS
from sparsesim.study.planning.screen import TERMS, Family, Screened, limits_of

NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "end-to-end time"}
LIMITED = {
    "": "",
    "prefill": " (by the prefill pool)",
    "decode": " (by the decode pool)",
    "transfer": " (by the KV between the pools)",
}
NEAREST = 3
"""Pairs of pools of one verdict that are shown one by one."""
MEAN_ERRS = 1.1
"""Near saturation the closed form's means of the steady state lie up to a tenth above those of a finite run."""
MEAN_BOUNDS_FROM = 80.0
"""Percentile from which a mean above the limit rules a candidate out without simulation."""


@dataclass(frozen=True, slots=True)
class Reason:
    """A family's verdict: of a closed set of kinds, in words, and the quantity by which it falls short.

    Kinds: winner, invalid (layout and model do not go together), memory (`by` bytes a device are missing), saturated
    (`by` requests/s too few), ttft_s, tpot_s, e2e_s (`by` seconds above the limit), dominated (`by` of the objective
    above the winner's), unknown (may be as good, left unsimulated). `pair` for pools of prefill and decode.
    """

    family: str
    kind: str
    text: str
    by: float
    candidates: int
    pair: bool = False


def ruled_out(families: list[Family], candidates: Screened) -> npt.NDArray[np.bool_]:
    """Candidates that saturate, or whose means already exceed a limit on a high percentile by more than they err."""
    limits = limits_by_family(families)[candidates.family]
    high = np.array([f.variant.scenario.slo.percentile >= MEAN_BOUNDS_FROM for f in families])[candidates.family]
    return np.asarray(candidates.saturated | (high & (candidates.mean > MEAN_ERRS * limits).any(axis=1)))


def reasons(search: Search, dead: npt.NDArray[np.bool_], winner: Finalist | None) -> list[Reason]:
    """One for every family, the winner's first, then by how near they came."""
    ratio, of = search.ratio(), search.candidates.family
    by_family = np.argsort(of, kind="stable")
    ends = np.searchsorted(of[by_family], np.arange(len(search.families) + 1))
    found = []
    for family in search.families:
        rows = by_family[ends[family.number] : ends[family.number + 1]]
        found.append(replace(_reason(search, family, rows, dead, ratio, winner), pair=family.prefill is not None))
    order = ["winner", "dominated", "unknown", *TERMS, "saturated", "memory", "invalid"]
    return sorted(found, key=lambda one: (order.index(one.kind), one.by))


def condensed(found: list[Reason]) -> list[Reason]:
    """The reasons for a reader: of pairs with one verdict the nearest `NEAREST`, and the others in one line."""
    kept: list[Reason] = []
    for kind, own in itertools.groupby(found, lambda one: one.kind):
        of_kind = list(own)
        pairs = [one for one in of_kind if one.pair]
        rest = set(map(id, pairs[NEAREST:] if len(pairs) > NEAREST + 1 else []))
        kept += [one for one in of_kind if id(one) not in rest]
        if rest:
            count = sum(one.candidates for one in pairs[NEAREST:])
            text = f"from {short(pairs[NEAREST].text)} (each in summary.json)"
            kept.append(Reason(f"{len(rest):,} more pairs of pools", kind, text, pairs[NEAREST].by, count, True))
    return kept


def short(text: str) -> str:
    """A reason without the word that its verdict says."""
    for said in ("dominated: ", "does not fit: ", "saturates: ", "misses "):
        text = text.removeprefix(said)
    return text


def _reason(
    search: Search,
    family: Family,
    rows: npt.NDArray[np.intp],
    dead: npt.NDArray[np.bool_],
    ratio: npt.NDArray[np.float64],
    winner: Finalist | None,
) -> Reason:
    c = search.candidates
    if family.instance.system is None:
        return Reason(family.name, "invalid", family.instance.reason, math.inf, 0)
    if family.instance.missing_bytes > 0:
        return _memory(family.name, family.instance)
    if not len(rows):
        return Reason(
            family.name,
            "invalid",
            "no batch limit of the axes is within a token budget, or no number of replicas within the devices",
            math.inf,
            0,
        )
    if winner is not None and c.family[winner.row] == family.number:
        return Reason(family.name, "winner", winner.name, 0.0, len(rows))
    if c.saturated[rows].all():
        row = rows[np.argmax(c.most_per_s[rows])]
        lacking = float(c.wanted_per_s[row] - c.most_per_s[row])
        text = (
            f"saturates: {int(c.devices[row])} devices take at most {c.most_per_s[row]:.3g} of"
            f" {c.wanted_per_s[row]:.3g} requests/s{LIMITED[str(c.bottleneck[row])]}"
        )
        return Reason(family.name, "saturated", text, lacking, len(rows))
    alive = rows[~dead[rows]]
    simulated = [one for one in search.done if c.family[one.row] == family.number]
    met = [one for one in simulated if one.met]
    likely = alive[ratio[alive] <= 1]
    if (met or len(likely)) and winner is not None:
        return _dominated(search, family, rows, met, likely, winner)
    if not len(alive):
        return _missed(search, family, rows[~c.saturated[rows]], "mean", len(rows))
    if met or len(likely):
        return Reason(family.name, "unknown", "predicted to meet the SLO, not simulated", math.inf, len(rows))
    if simulated:
        return _missed_simulated(family, simulated, len(rows))
    return _missed(search, family, alive, "high", len(rows))


def _memory(name: str, one: Instance) -> Reason:
    plan, missing = one.plan, one.missing_bytes
    assert plan is not None
    text = (
        f"does not fit: {missing:,.0f} B ({missing / GIB:.2f} GiB) a device are missing;"
        f" weights {plan.weight_bytes / GIB:.1f} GiB and reserve {plan.reserve_bytes / GIB:.1f} GiB"
        f" of {plan.usable_bytes / GIB:.1f} GiB"
    )
    return Reason(name, "memory", text, missing, 0)


def _dominated(
    search: Search,
    family: Family,
    rows: npt.NDArray[np.intp],
    met: list[Finalist],
    likely: npt.NDArray[np.intp],
    winner: Finalist,
) -> Reason:
    label, unit = LABELS[search.column]
    if met:
        own = min(met, key=lambda one: rank(one, search.column))
        value, energy, how = own.objectives[search.column], own.objectives["j_per_output_tok"], "simulated"
        devices = round(own.objectives["devices"])
    else:
        columns = search.candidates.objectives
        row = likely[np.lexsort((columns["j_per_output_tok"][likely], columns[search.column][likely]))[0]]
        value, energy, how = float(columns[search.column][row]), float(columns["j_per_output_tok"][row]), "estimated"
        devices = int(search.candidates.devices[row])
    best = winner.objectives[search.column]
    by = value - best
    if abs(by) <= 1e-6 * abs(best):
        more = energy - winner.objectives["j_per_output_tok"]
        if more < 0 and how == "estimated":
            text = f"equal in {label.lower()}, {energy:.3g} J/tok (estimated), {more:.2g} on the winner; not simulated"
            return Reason(family.name, "unknown", text, 0.0, len(rows))
        text = f"dominated: equal in {label.lower()}, {energy:.3g} J/tok ({how}), {more:+.2g} J/tok on the winner"
        return Reason(family.name, "dominated", text, 0.0, len(rows))
    amount = f"{label.lower()} {value:.4g} {unit}".strip()
    text = f"dominated: {amount} on {devices} devices ({how}), {100 * by / best:+.1f} % on the winner"
    return Reason(family.name, "dominated", text, by, len(rows))


def _missed_simulated(family: Family, simulated: list[Finalist], count: int) -> Reason:
    nearest = max(simulated, key=lambda one: one.attainment)
    limits = limits_of(family.variant.scenario.slo)
    name, over = worst(nearest.measured, limits)
    percentile = family.variant.scenario.slo.percentile
    return Reason(family.name, name, f"{miss_of(nearest, percentile, limits)} when simulated", max(over, 0.0), count)


def _missed(search: Search, family: Family, rows: npt.NDArray[np.intp], what: str, count: int) -> Reason:
    """The candidate nearest to the limits, by its means or by its predicted percentiles."""
    limits = limits_of(family.variant.scenario.slo)
    values = search.candidates.mean if what == "mean" else search.corrected()
    row = rows[np.argmin((values[rows] / limits).max(axis=1))]
    name, over = worst(values[row], limits)
    percentile = family.variant.scenario.slo.percentile
    which = "in the mean alone" if what == "mean" else "by the screening's prediction"
    text = f"misses {miss_words(name, percentile, values[row], limits, what == 'mean')} {which}"
    return Reason(family.name, name, text, over, count)


def miss_of(one: Finalist, percentile: float, limits: npt.NDArray[np.float64]) -> str:
    """What a finalist misses: a term's percentile, or, where every term alone is met, all of them together."""
    name, over = worst(one.measured, limits)
    if over > 0:
        return f"misses {miss_words(name, percentile, one.measured, limits)}"
    return (
        f"misses the SLO as a whole ({100 * one.attainment:.2f} % of requests meet it, {percentile:g} % are asked for)"
    )


def worst(values: npt.NDArray[np.float64], limits: npt.NDArray[np.float64]) -> tuple[str, float]:
    """The term furthest above its limit in proportion, and by how many seconds."""
    place = int(np.argmax(values / limits))
    return TERMS[place], float(values[place] - limits[place])


def miss_words(
    name: str,
    percentile: float,
    values: npt.NDArray[np.float64],
    limits: npt.NDArray[np.float64],
    mean: bool = False,
) -> str:
    """`TTFT p99 by 120 ms (620 ms against 500 ms)`."""
    place = TERMS.index(name)
    value, limit = float(values[place]), float(limits[place])
    which = "" if mean else f" p{percentile:g}"
    by = (
        f"{_ms(value - limit)} ({_ms(value)} against {_ms(limit)})"
        if math.isfinite(value)
        else "requests left unserved"
    )
    return f"{NAMES[name]}{which} by {by}"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g} ms" if abs(seconds) < 1 else f"{seconds:.3g} s"
