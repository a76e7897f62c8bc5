"""One look for all pictures: colours that colour-blind readers tell apart, units on axes, nothing without a purpose.

Colours are those of Okabe and Ito, "Color universal design" (2008).
"""

from __future__ import annotations

import io
import textwrap
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
INK, MUTED, FAINT = "#222222", "#6b6b6b", "#d9d9d9"
CASES = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, INK, MUTED)
"""Colours of cases, in order."""
COMPONENTS = {"compute": BLUE, "memory": ORANGE, "link": GREEN, "static": "#8c8c8c", "idle": "#c9c9c9"}
"""Colours of energy components."""
BOUNDS = {"compute": BLUE, "memory": ORANGE, "network": GREEN, "host": PURPLE}
"""Colours of what bounds an op."""
WIDTH_IN = 7.2
"""Inches: the text width of an A4 page, so that a printed picture keeps its type size."""
TEXT, SMALL = 9.0, 8.0
DPI = 150
LABEL_WIDTH = 32
"""Characters of a case's name on one line."""


def figure(rows: int, columns: int, height_in: float, **grid: Any) -> tuple[Any, Any]:
    """A figure of the page's width with bare axes, [rows, columns]."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(WIDTH_IN, height_in), layout="constrained", facecolor="white")
    axes = made.subplots(rows, columns, squeeze=False, **grid)
    for axis in axes.flat:
        bare(axis)
    return made, axes


def bare(axis: Any) -> None:
    """Take away what carries no information: two spines, tick marks; leave a faint grid to read values from."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(MUTED)
    axis.tick_params(labelsize=SMALL, colors=MUTED, labelcolor=INK, length=2.5)
    axis.grid(visible=True, color=FAINT, linewidth=0.5)
    axis.set_axisbelow(True)


def labels(axis: Any, x: str = "", y: str = "", title: str = "") -> None:
    """Axis labels with units, and a title flush left."""
    axis.set_xlabel(x, fontsize=SMALL, color=INK)
    axis.set_ylabel(y, fontsize=SMALL, color=INK)
    if title:
        axis.set_title(title, fontsize=TEXT, color=INK, loc="left", fontweight="bold")


def legend(axis: Any, **where: Any) -> None:
    """A legend without a frame."""
    axis.legend(frameon=False, fontsize=SMALL, handlelength=1.4, **where)


def folded(name: str) -> str:
    """A case's name over lines, broken at spaces, as it stands beside its bars."""
    return textwrap.fill(name, LABEL_WIDTH, break_long_words=False, break_on_hyphens=False)


def colour(case: int) -> str:
    """The colour of a case by its number."""
    return CASES[case % len(CASES)]


def svg(made: Any) -> str:
    """The figure as an SVG element to stand inside a page; the same figure gives the same text.

    The canvas is asked directly: `Figure.savefig` draws everything twice.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.StringIO()
    made.dpi = 72  # points, in which SVG counts
    with mpl.rc_context({"svg.hashsalt": "sparsesim"}):
        FigureCanvasSVG(made).print_svg(buffer, metadata={"Date": None})
    made.set_layout_engine("none")  # the layout stands; finding it again would double the time
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def save(made: Any, element: str, folder: Path, name: str) -> None:
    """Write NAME.png, and NAME.svg of the element that `svg` gave."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    part = folder / f".{name}.part"
    part.write_text(f'<?xml version="1.0" encoding="utf-8"?>\n{element}', encoding="utf-8")
    part.replace(folder / f"{name}.svg")
    made.dpi = DPI
    FigureCanvasAgg(made).print_png(part)
    part.replace(folder / f"{name}.png")
