"""The page: whole, self-contained, and what its pictures say."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsesim.report.page import CAPTIONS, pictures
from sparsesim.report.plots import style
from sparsesim.report.plots.comparison import crossings, crossover_figure, labelled
from sparsesim.report.plots.latency import latency_figure
from sparsesim.report.plots.roofline import roofline_figure
from sparsesim.report.plots.scale import prefix, short, time_unit
from sparsesim.report.plots.timeline import timeline_figure
from sparsesim.report.tables import comparison_table, latency_table, op_rows, summary_table
from sparsesim.report.write import write_report
from sparsesim.run import Run

OUTSIDE = re.compile(
    r"""(?:src|href|url)\s*[=(]\s*["']?(?!#|["']?#)(?:https?:|//|file:|[\w./-]+\.(?:css|js|png|svg))"""
)


class Balanced(HTMLParser):
    """Counts open elements."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        if tag not in ("meta", "br", "col", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attributes: Any) -> None:
        pass


@pytest.fixture(scope="module")
def written(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report([run], folder, run.title)
    return folder


def test_the_page_is_one_file_without_links(written: Path) -> None:
    text = (written / "report.html").read_text()
    assert not OUTSIDE.search(text)
    assert "<script" not in text
    assert text.count("<svg") == 5
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []


def test_the_page_has_question_answer_figures_assumptions_and_sources(written: Path, run: Run) -> None:
    text = (written / "report.html").read_text()
    places = [
        text.index(part)
        for part in (
            f"<h1>{run.title}</h1>",
            "The SLO is met",
            "<h2>Figures",
            "<h2>Pictures",
            "<h2>What the figures rest on",
            "Devices keep their clocks up",
            "<h2>How to cite",
            "Qwen3 Technical Report",
            "<h2>Scenario as resolved",
        )
    ]
    assert places == sorted(places)
    assert "None" not in text
    assert not re.search(r"\bnan\b", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))


def test_pictures_are_files_too(written: Path) -> None:
    names = {path.name for path in (written / "plots").iterdir()}
    assert names == {
        f"{name}.{kind}" for name in CAPTIONS if name not in ("comparison", "axis") for kind in ("png", "svg")
    }
    assert (written / "plots" / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_a_title_cannot_inject_markup(run: Run, tmp_path: Path) -> None:
    text = write_report([run.titled("<script>alert(1)</script>")], tmp_path).read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_an_estimate_without_tables_gets_a_page(run: Run, tmp_path: Path) -> None:
    summary = {"ttft_s": {"mean": 0.1}, "output_tok_per_s": 100.0}
    text = write_report([Run("estimate", "closed form", summary, {}, run.manifest)], tmp_path).read_text()
    assert "mean time to first token is 100 ms" in text.replace("The mean", "mean")


def test_the_same_run_gives_the_same_page(run: Run, tmp_path: Path) -> None:
    first, second = (write_report([run], tmp_path / name, "q").read_bytes() for name in ("a", "b"))
    assert first == second


def test_several_runs_get_one_page_that_compares_them(run: Run, replicated: Run, tmp_path: Path) -> None:
    text = write_report([run.titled("one"), replicated.titled("three")], tmp_path, "Which?").read_text()
    assert "<h2>Side by side" in text
    assert text.count("<svg") == len(list(pictures([run, replicated])))


def test_many_cases_have_a_row_each(run: Run, tmp_path: Path) -> None:
    cases = [run.titled(f"case {number}") for number in range(9)]
    text = write_report(cases, tmp_path, "Which?").read_text()
    assert text.count("<tr><td>case") == 9
    assert text.count("<svg") == 2
    parser = Balanced()
    parser.feed(text)
    assert parser.open == []


def test_drawing_leaves_matplotlibs_settings_alone(run: Run) -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    style.svg(latency_figure([run]))
    assert dict(mpl.rcParams) == before


def test_the_latency_curve_is_the_distribution(run: Run) -> None:
    axis = latency_figure([run]).axes[0]
    curve = axis.lines[0].get_xydata()
    at_90 = np.interp(90, curve[:, 1], curve[:, 0])
    assert at_90 == pytest.approx(1e3 * run.summary["ttft_s"]["p90"], rel=1e-6)
    assert axis.get_xlabel().startswith("ms")


def test_the_warm_up_is_left_out_of_the_curve(run: Run) -> None:
    scenario = {**run.manifest["scenario"], "simulation": {"warm_up": "30 s"}}
    late = replace(run, manifest={**run.manifest, "scenario": scenario})
    requests = run.tables["requests"]
    after = requests["arrival_s"] >= 30.0
    assert 0 < after.sum() < len(after)
    curve = latency_figure([late]).axes[0].lines[0].get_xydata()
    assert curve[-1, 0] == pytest.approx(1e3 * requests["ttft_s"][after].max())


def test_the_power_panel_stacks_to_the_total(run: Run) -> None:
    axis = timeline_figure(run).axes[0]
    tops = max(area.get_paths()[0].vertices[:, 1].max() for area in axis.collections)
    assert tops * 1e3 == pytest.approx(run.tables["power"]["total_w"].max())
    assert "kW" in axis.get_ylabel()


def test_no_op_lies_above_its_roof(run: Run) -> None:
    ops = run.tables["ops"]
    made = roofline_figure(run)
    assert [axis.get_title(loc="left") for axis in made.axes] == ["prefill", "decode"]
    some = ops["flop"] > 0
    roof = np.minimum(ops["peak_flop_per_s"], ops["flop"] / ops["hbm_bytes"].clip(1) * ops["peak_bytes_per_s"])
    assert np.all(ops["flop"][some] / ops["time_s"][some] <= roof[some] * 1.0001)


def test_crossings_by_hand() -> None:
    x = np.array([0.0, 1.0, 2.0, 3.0])
    found = crossings(x, x, np.array([2.5, 1.5, 0.5, 5.0]))
    assert np.array(found) == pytest.approx(np.array([[1.25, 1.25], [2 + 1.5 / 3.5, 2 + 1.5 / 3.5]]))
    assert crossings(x, x, x + 1) == []


def test_the_crossover_is_marked() -> None:
    x = np.array([1.0, 10.0, 100.0])
    made = crossover_figure(x, {"a": x, "b": np.full(3, 10.0) * 1.0001}, "x", "y")
    texts = [text.get_text() for text in made.axes[0].texts]
    assert "crossover at 10" in texts
    assert {"a", "b"} <= set(texts)


@pytest.mark.parametrize(
    ("largest", "expected"), [(2e-4, "µs"), (0.5, "ms"), (2.9, "ms"), (4.0, "s"), (299, "s"), (3600, "min"), (1e5, "h")]
)
def test_time_axes_have_short_numbers(largest: float, expected: str) -> None:
    assert time_unit(largest)[1] == expected


def test_prefixes_and_short_numbers() -> None:
    assert prefix(2300.0, "W") == (1e3, "kW")
    assert prefix(0.7, "J") == (1e-3, "mJ")
    assert [short(v) for v in (0.02, 16384, 131072, 2e6)] == ["0.02", "16,384", "131.1k", "2M"]
    assert labelled("ttft_s.p99") == "TTFT, p99"
    assert labelled("goodput_per_s") == "Goodput"


def test_tables_hold_every_figure(run: Run) -> None:
    assert latency_table(run).row_count == 5
    assert summary_table(run).row_count > 25
    assert comparison_table([run, run]).row_count > 40
    rows = list(op_rows(run, 4))
    assert len(rows) == 2 * (4 + 1)
    assert sum(float(row[4].split()[0]) for row in rows if row[0] == "decode") == pytest.approx(100, abs=0.5)


def modules_after(code: str) -> set[str]:
    """What a fresh interpreter has imported."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_reading_a_run_needs_no_plotting_library() -> None:
    assert not modules_after("import sparsesim.run, sparsesim.report.write") & {"matplotlib", "pandas", "torch"}


def test_drawing_needs_no_global_plotting_state() -> None:
    loaded = modules_after("from sparsesim.report.plots import style; style.svg(style.figure(1, 1, 2.0)[0])")
    assert "matplotlib.figure" in loaded
    assert "matplotlib.pyplot" not in loaded
