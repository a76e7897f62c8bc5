"""Pictures and the page, written beside the run they are of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sparsesim.report.page import page, pictures
from sparsesim.report.plots import style
from sparsesim.run import Run

REPORT = "report.html"


def write_report(runs: Sequence[Run], folder: str | Path, question: str = "") -> Path:
    """Write `plots/NAME.png` and `.svg` and report.html; the page holds its pictures in itself.

    One run gets its own page, several get one that compares them. Each file is written whole or not at all.
    """
    place = Path(folder)
    plots = place / "plots"
    plots.mkdir(parents=True, exist_ok=True)
    drawn = []
    for picture in pictures(runs):
        element = style.svg(picture.made)
        style.save(picture.made, element, plots, picture.name)
        drawn.append((picture, element))
    text = page(runs, question or " or ".join(run.title for run in runs), drawn)
    part = place / f".{REPORT}"
    part.write_text(text, encoding="utf-8")
    return part.replace(place / REPORT)
