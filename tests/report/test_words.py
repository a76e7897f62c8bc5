"""Numbers and sentences that a reader gets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparsesim.report.words import NONE, answer, deployment, interval_of, shown, verdict
from sparsesim.run import Run


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0312, "s", "31.2 ms"),
        (3504.2, "s", "3,504 s"),
        (0.682, "J/tok", "682 mJ/tok"),
        (1300.0, "W", "1.3 kW"),
        (0.125, "share", "12.5 %"),
        (0.99983, "share", "99.98 %"),
        (1.0, "share", "100 %"),
        (1575.4, "tok/s", "1,575 tok/s"),
        (7.914, "requests/s", "7.91 requests/s"),
        (4000, "blocks", "4,000 blocks"),
        (None, "s", NONE),
    ],
)
def test_a_number_has_three_digits_and_a_unit(value: float | None, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_the_answer_begins_with_the_slo_and_names_the_deployment(run: Run) -> None:
    sentences = answer(run)
    assert sentences[0].startswith("The SLO is met: 98.")
    assert "90 % are asked for" in sentences[0]
    assert deployment(run) == "qwen3-8b on 2 x h100-sxm"
    assert any("bound by compute (80 % of its time)" in sentence for sentence in sentences)


def test_chips_are_counted_where_hardware_has_them(run: Run) -> None:
    layout = {"hardware": {"name": "loihi2", "chips": 24}}
    asked = {**run.manifest, "scenario": {"model": "mmfreelm-370m", "deployment": layout}}
    assert deployment(replace(run, manifest=asked)) == "mmfreelm-370m on 24 loihi2"


def test_a_missed_slo_failures_and_interruption_are_said(run: Run) -> None:
    summary = {
        **run.summary,
        "slo": {**run.summary["slo"], "met": False, "attainment": 0.5},
        "outcomes": {"finished": 590, "rejected_full": 10},
    }
    told = " ".join(answer(replace(run, summary=summary, manifest={**run.manifest, "partial": True})))
    assert told.startswith("The run was interrupted")
    assert "The SLO is missed: 50 %" in told
    assert "10 rejected full" in told


def test_cases_are_told_apart_by_what_differs(run: Run) -> None:
    half = {**run.summary, "j_per_output_tok": run.summary["j_per_output_tok"] / 2}
    sentences = verdict([run.titled("dense"), replace(run, title="sparse", summary=half)])
    assert sentences[0] == "The SLO is met by all cases."
    assert sentences[1].startswith(
        "Lowest energy per output token: sparse with 341 mJ/tok; dense 682 mJ/tok (2.00 times)"
    )
    assert sentences[-1].startswith("Nearly the same for all: goodput")


def test_of_many_cases_the_best_the_next_and_the_last_are_named(run: Run) -> None:
    joules = [5.0, 1.0, 4.0, 2.0, 3.0]
    cases = [replace(run, title=f"c{j:g}", summary={**run.summary, "j_per_output_tok": j}) for j in joules]
    told = next(sentence for sentence in verdict(cases) if "energy" in sentence)
    assert told == (
        "Lowest energy per output token: c1 with 1 J/tok; next c2 2 J/tok (2.00 times), last c5 5 J/tok (5.00 times)."
    )


def test_overlapping_intervals_are_admitted(run: Run) -> None:
    bounds = {"j_per_output_tok": {"low": 0.1, "high": 1.0, "level": 0.9, "source": "kernels"}}
    slow = {**run.summary, "intervals": bounds}
    fast = {**slow, "j_per_output_tok": run.summary["j_per_output_tok"] / 2}
    cases = [replace(run, title="a", summary=slow), replace(run, title="b", summary=fast)]
    assert any(sentence.endswith("their intervals overlap.") for sentence in verdict(cases))
    assert interval_of(cases[0], "j_per_output_tok") == "100 mJ/tok to 1 J/tok (90 %, kernels)"
