"""The report of a plan: the choice, what limits it, what would change it, who else was tried, why they lost."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Any

from sparsesim.report.words import shown
from sparsesim.study.planning.finalists import Finalist
from sparsesim.study.planning.money import LABELS, OBJECTIVES
from sparsesim.study.planning.reasons import condensed, short
from sparsesim.study.planning.search import Plan
from sparsesim.study.planning.write import winner_yaml
from sparsesim.study.points import write_text

KINDS = {
    "winner": "chosen",
    "dominated": "dominated",
    "unknown": "not simulated",
    "ttft_s": "misses TTFT",
    "tpot_s": "misses TPOT",
    "e2e_s": "misses end to end",
    "saturated": "saturates",
    "memory": "does not fit",
    "invalid": "impossible",
}


def verdict(plan: Plan) -> list[str]:
    """The answer in sentences, the most wanted first."""
    count = f"{len(plan.search.candidates):,} candidates of {len(plan.search.families)} layouts were screened"
    count += f", {len(plan.search.done)} simulated"
    if plan.winner is None:
        return [*plan.infeasible(), f"{count}."]
    winner, column = plan.winner, plan.search.column
    label, unit = LABELS[column]
    slo = winner.scenario.slo
    lines = [f"{winner.name}: {label.lower()} {shown(winner.objectives[column], unit)}, the lowest that was found."]
    if winner.summary.get("slo"):
        share = shown(winner.attainment, "share")
        lines.append(f"{share} of the requests meet the SLO, {slo.percentile:g} % are asked for ({_terms(winner)}).")
    lines.append(_scopes(winner))
    lines += _other_kind(plan)
    lines.append(f"{count}{'; interrupted' if plan.partial else ''}.")
    return lines


def _other_kind(plan: Plan) -> list[str]:
    """Where pools compete with replicas that do both phases, the best of those that lost, or the nearest."""
    winner, replicas = plan.winner, plan.search.candidates.prefill_replicas
    if winner is None or len(plan.space.roles) != 3:
        return []
    won = bool(replicas[winner.row] > 0)
    others = [one for one in plan.reasons if one.pair is not won]
    start, column = "Without pools" if won else "With pools", plan.search.column
    label, unit = LABELS[column]
    for one in plan.finalists:
        if one.met and (replicas[one.row] > 0) != won:
            more = one.objectives[column] / winner.objectives[column] - 1
            figure = f"{label.lower()} {shown(one.objectives[column], unit)} ({100 * more:+.1f} %)"
            if abs(more) < 1e-6:
                energy = [shown(f.objectives["j_per_output_tok"], "J/tok") for f in (one, winner)]
                figure = f"equal in {label.lower()}, {energy[0]} against {energy[1]}"
            return [f"{start} the best that was simulated is {one.name}: {figure}."]
    if others[0].kind in ("dominated", "unknown"):
        return [f"{start} the nearest is {others[0].family}: {short(others[0].text)}."]
    return [f"{start} nothing was found that meets the SLO; the nearest is {others[0].family}: {others[0].text}."]


def _terms(one: Finalist) -> str:
    names = {"ttft_s": "TTFT", "tpot_s": "TPOT", "e2e_s": "end to end"}
    percentile = one.scenario.slo.percentile
    limits = {"ttft_s": one.scenario.slo.ttft, "tpot_s": one.scenario.slo.tpot, "e2e_s": one.scenario.slo.e2e}
    parts = [
        f"{text} p{percentile:g} {shown(float(value), 's')} of {shown(limits[name], 's')}"
        for (name, text), value in zip(names.items(), one.measured, strict=True)
        if limits[name] is not None
    ]
    return ", ".join(parts)


def _scopes(one: Finalist) -> str:
    """Energy, carbon and money, each with its scope."""
    parts = [f"{LABELS[n][0].lower()} {shown(v, LABELS[n][1])}" for n, v in one.objectives.items() if n in _SCOPES]
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


_SCOPES = (
    "devices",
    "cost_per_mtok",
    "j_per_output_tok",
    "node_j_per_output_tok",
    "facility_j_per_output_tok",
    "carbon_g_per_mtok",
    "embodied_g_per_mtok",
)


def finalist_rows(plan: Plan) -> list[dict[str, Any]]:
    """The simulated candidates by rank, one row each."""
    rows = []
    for place, one in enumerate(plan.finalists, 1):
        percentile = one.scenario.slo.percentile
        row: dict[str, Any] = {"": place, "deployment": one.name, "devices": round(one.objectives["devices"])}
        if "cost_per_mtok" in one.objectives:
            row["USD/Mtok"] = one.objectives["cost_per_mtok"]
        row["J/tok"] = one.objectives["j_per_output_tok"]
        row[f"TTFT p{percentile:g}"] = shown(float(one.measured[0]), "s")
        row[f"TPOT p{percentile:g}"] = shown(float(one.measured[1]), "s")
        row["SLO"] = f"{'met' if one.met else 'missed'}, {shown(one.attainment, 'share')}"
        rows.append(row)
    return rows


def reason_rows(plan: Plan) -> list[dict[str, Any]]:
    """Every layout with its verdict."""
    return [
        {"layout": one.family, "candidates": one.candidates, "verdict": KINDS[one.kind], "why": short(one.text)}
        for one in condensed(plan.reasons)
    ]


def limits_words(plan: Plan) -> list[str]:
    """What bounds the winner's steps, and how near its percentiles are to their limits."""
    lines = []
    for phase, shares in plan.bound.items():
        text = ", ".join(f"{name} {shown(share, 'share')}" for name, share in shares.items() if share > 0)
        lines.append(f"{phase.capitalize()} is bound by {text} of its time.")
    if plan.winner is not None and plan.winner.summary.get("slo"):
        lines.append(f"Against the SLO: {_terms(plan.winner)}.")
    return lines


def change_words(plan: Plan) -> list[tuple[str, str, str]]:
    """What is different, what the screening would choose then, and whether the layout stays."""
    return [
        (
            change.what,
            change.choice or "nothing on these devices meets the SLO",
            "same layout" if change.same_family else ("another layout" if change.choice else ""),
        )
        for change in plan.changes
    ]


def write_plan_report(plan: Plan, folder: Path) -> Path:
    """Write `plots/pareto.png` and `.svg` and report.html; the page links to nothing outside of it."""
    from sparsesim.report.plots import style
    from sparsesim.report.plots.pareto import pareto_figure

    plots = folder / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    made = pareto_figure(plan)
    element = style.svg(made)
    style.save(made, element, plots, "pareto")
    write_text(folder / "report.html", page(plan, element))
    return folder / "report.html"


def page(plan: Plan, picture: str) -> str:
    """The page as HTML."""
    import jinja2

    from sparsesim.run import commit, versions

    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    folder = files("sparsesim.report") / "templates"
    template = environment.from_string((folder / "plan.html.j2").read_text())
    finalists = [{key or "#": _cell(value) for key, value in row.items()} for row in finalist_rows(plan)]
    return template.render(
        question=plan.space.scenario.title or f"A deployment for {plan.space.scenario.model}",
        objective=LABELS[OBJECTIVES[plan.search.objective]][0].lower(),
        plan=plan,
        verdict=verdict(plan),
        picture=picture,
        finalists=finalists,
        reasons=reason_rows(plan),
        limits=limits_words(plan),
        changes=change_words(plan),
        yaml=winner_yaml(plan) if plan.winner else "",
        versions=versions(),
        commit=commit(),
    )


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
