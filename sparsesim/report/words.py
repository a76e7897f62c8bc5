"""Numbers as a reader wants them, and the sentences that answer the question before any table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sparsesim.metrics.attributes import Attribute, attributes
from sparsesim.report.plots.comparison import figure_of
from sparsesim.run import Run
from sparsesim.units import show

NONE = "–"
_DIMENSIONS = {"s": "time", "J": "energy", "W": "power", "B": "bytes"}
DIGITS = 3
SLO_NAMES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "end-to-end time"}
NAMED = 4
"""Cases that a sentence names; of more it names the best, the next and the last."""
EQUAL_RATIO = 1.02
"""Cases nearer than 2 % are called the same in words."""


def shown(value: float | None, unit: str = "") -> str:
    """Three digits with the unit: 0.0312 s is `31.2 ms`, 0.682 J/tok `682 mJ/tok`, a share `12.5 %`."""
    if value is None:
        return NONE
    if unit == "share":
        return f"{_near_all(100 * value) if 99.9 < 100 * value < 100 else f'{100 * value:.{DIGITS}g}'} %"
    head, slash, rest = unit.partition("/")
    if unit == "s" and value >= 1000:
        return f"{value:,.0f} s"
    if head in _DIMENSIONS:
        return f"{show(value, _DIMENSIONS[head], DIGITS)}{slash}{rest}"
    number = f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.{DIGITS}g}"
    return f"{number} {unit}".strip()


def _near_all(percent: float) -> str:
    """A percentage near 100 with as many nines as it has: 99.98, not 100."""
    return f"{percent:.{-math.floor(math.log10(100 - percent))}f}"


def described(name: str) -> Attribute:
    """The attribute of a summary's figure, found by its own name or that of the mapping that holds it."""
    table = attributes("summary")
    return table.get(name) or table[name.split(".")[0]]


def interval_of(run: Run, name: str) -> str:
    """The interval of a figure in words; empty where there is none."""
    interval = (run.summary.get("intervals") or {}).get(name)
    if not isinstance(interval, Mapping) or interval.get("low") is None or interval.get("high") is None:
        return ""
    unit = described(name).unit
    level = f"{100 * interval['level']:g} %, " if interval.get("level") else ""
    return f"{shown(interval['low'], unit)} to {shown(interval['high'], unit)} ({level}{interval.get('source', '')})"


def answer(run: Run) -> list[str]:
    """What the run says, the most wanted first."""
    parts = [_cut_short(run), _slo(run), _rate(run), _latency(run), _bound(run), _memory(run), _failures(run)]
    return [part for part in parts if part]


def _cut_short(run: Run) -> str:
    return "The run was interrupted: these are the figures of the part that was simulated." if run.partial else ""


def _slo(run: Run) -> str:
    slo, counts = run.summary.get("slo"), run.summary.get("requests")
    if counts and not counts["completed"] and not counts["failed"]:
        return "No request was measured: none arrived after the warm-up."
    if not slo:
        return ""
    terms = " and ".join(f"{SLO_NAMES[name]} ≤ {shown(term['limit'], 's')}" for name, term in slo["terms"].items())
    verdict = "The SLO is met" if slo["met"] else "The SLO is missed"
    asked = f"{slo['percentile']:g} % are asked for"
    return f"{verdict}: {shown(slo['attainment'], 'share')} of the requests had {terms}; {asked}."


def _rate(run: Run) -> str:
    made = run.summary.get("output_tok_per_s")
    if made is None:
        return ""
    tokens = f"{deployment(run)} makes {shown(made, 'output tokens/s')}"
    if run.summary.get("step_s") is not None:
        tokens = f"A step of {deployment(run)} takes {shown(run.summary['step_s'], 's')}"
    energy = run.summary.get("j_per_output_tok", run.summary.get("j_per_tok"))
    if energy is None or run.summary.get("power_w") is None:
        return f"{tokens}."
    token = "output token" if "j_per_output_tok" in run.summary else "token"
    power = shown(run.summary["power_w"], "W")
    return f"{tokens} at {shown(energy, 'J')} per {token} and draws {power} (devices only)."


def _latency(run: Run) -> str:
    parts = []
    for name, text in (("ttft_s", "time to first token"), ("tpot_s", "time per output token")):
        found = run.summary.get(name) or {}
        if found.get("p50") is not None:
            parts.append(
                f"the {text} is {shown(found['p50'], 's')} in the median and {shown(found['p99'], 's')} at p99"
            )
        elif found.get("mean") is not None:
            parts.append(f"the mean {text} is {shown(found['mean'], 's')}")
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _bound(run: Run) -> str:
    """The largest share of each phase; a bound may also be just a word."""
    parts = []
    for phase, shares in (run.summary.get("bound") or {}).items():
        if isinstance(shares, Mapping) and shares:
            name, share = max(shares.items(), key=lambda item: item[1])
            parts.append(f"{phase} is bound by {name} ({shown(share, 'share')} of its time)")
        elif isinstance(shares, str):
            parts.append(f"{phase} is bound by {shares}")
    text = ", ".join(parts)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _memory(run: Run) -> str:
    use = run.summary.get("kv_use") or {}
    if not use.get("blocks") or use.get("max") is None:
        return ""
    return f"At most {shown(use['max'], 'share')} of a replica's {run.summary['kv_blocks']:,} KV blocks are in use."


def _failures(run: Run) -> str:
    others = {name: n for name, n in (run.summary.get("outcomes") or {}).items() if name != "finished" and n}
    if not others:
        return ""
    listed = ", ".join(f"{shown(n)} {name.replace('_', ' ')}" for name, n in others.items())
    return f"Not all requests finished: {listed}."


def deployment(run: Run) -> str:
    """The model and what it runs on, in words."""
    scenario = run.manifest.get("scenario", {})
    layout = scenario.get("deployment", {})
    if layout.get("pools"):
        pools = layout["pools"].items()
        places = " and ".join(f"{pool.get('replicas', 1)} x {_place(pool)} for {name}" for name, pool in pools)
        return f"{scenario.get('model', run.title)} on {places}"
    replicas = layout.get("replicas", 1)
    place = _place(layout)
    if replicas > 1:
        place = (
            f"{replicas} x {place.removeprefix('1 ')}" if place.startswith("1 ") else f"{replicas} replicas of {place}"
        )
    return f"{scenario.get('model', run.title)} on {place}"


def _place(layout: Mapping[str, Any]) -> str:
    hardware = layout.get("hardware")
    name = hardware.get("name") if isinstance(hardware, Mapping) else hardware
    if isinstance(hardware, Mapping) and hardware.get("chips"):
        return f"{hardware['chips']} {name}"
    devices = layout.get("tp", 1) * layout.get("dp", 1) * layout.get("pp", 1)
    ways = ", ".join(f"{way} {layout[way]}" for way in ("tp", "dp", "ep", "pp") if layout.get(way, 1) > 1)
    return f"{devices} {name} ({ways})" if ways else f"{devices} {name}"


RANKED = (
    ("goodput_per_s", "goodput"),
    ("output_tok_per_s", "output rate"),
    ("ttft_s.p99", "p99 time to first token"),
    ("tpot_s.p99", "p99 time per output token"),
    ("ttft_s.mean", "mean time to first token"),
    ("tpot_s.mean", "mean time per output token"),
    ("j_per_output_tok", "energy per output token"),
    ("step_s", "step time"),
    ("j_per_tok", "energy per token"),
)
"""Figures that cases are judged by; a mean only where there is no percentile."""


def verdict(runs: Sequence[Run]) -> list[str]:
    """How cases differ: each figure with the best named and the others beside it; what is the same goes last."""
    differ, agree = [], []
    for name, text in RANKED:
        known = [(value, run) for run in runs if (value := figure_of(run.summary, name)) is not None and value > 0]
        if len(known) < 2 or (name.endswith(".mean") and figure_of(runs[0].summary, name.replace("mean", "p99"))):
            continue
        known.sort(key=lambda item: item[0], reverse=described(name).better == "higher")
        if max(known[0][0], known[-1][0]) / min(known[0][0], known[-1][0]) < EQUAL_RATIO:
            agree.append(f"{text} ({shown(known[0][0], described(name).unit)})")
        else:
            differ.append(_ranked(name, text, known))
    same = f"Nearly the same for all: {', '.join(agree)}." if agree else ""
    return [part for part in (_slo_of_all(runs), *differ, same) if part]


def _ranked(name: str, text: str, known: Sequence[tuple[float, Run]]) -> str:
    """One figure in a sentence."""
    (best, winner), unit = known[0], described(name).unit
    named = list(known[1:]) if len(known) <= NAMED else [known[1], known[-1]]
    texts = [f"{run.title} {shown(value, unit)} ({value / best:.2f} times)" for value, run in named]
    rest = ", ".join(texts) if len(known) <= NAMED else f"next {texts[0]}, last {texts[1]}"
    word = "Highest" if described(name).better == "higher" else "Lowest"
    doubt = "; their intervals overlap" if _overlap(winner, known[1][1], name) else ""
    return f"{word} {text}: {winner.title} with {shown(best, unit)}; {rest}{doubt}."


def _overlap(first: Run, second: Run, name: str) -> bool:
    bounds = [(run.summary.get("intervals") or {}).get(name) for run in (first, second)]
    if not all(bound and bound.get("low") is not None and bound.get("high") is not None for bound in bounds):
        return False
    one, other = bounds
    return bool(one["low"] <= other["high"] and other["low"] <= one["high"])  # type: ignore[index]


def _slo_of_all(runs: Sequence[Run]) -> str:
    judged = [run for run in runs if run.summary.get("slo")]
    if not judged:
        return ""
    met = [run.title for run in judged if run.summary["slo"]["met"]]
    if len(met) == len(judged):
        return "The SLO is met by all cases."
    return f"The SLO is met by {', '.join(met)} only." if met else "The SLO is missed by all cases."
