"""The page that shows predictions against published measurements, good and bad rows alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sparsesim.published.observation import Unexpressed
from sparsesim.study.published import Judged, table

WORST = 10
REASONS = (
    ("DEP", "attention ranks are taken as evenly loaded; real ones wait for the longest"),
    ("gpt-oss", "MXFP4 experts are unpacked to bf16 on Hopper; only bf16 experts were measured"),
    ("maverick", "one expert of 128 a token: few rows an expert, the coarsest tiles"),
    ("Maverick", "one expert of 128 a token: few rows an expert, the coarsest tiles"),
    ("Scout", "chunked attention is sized by the whole chunk"),
    (
        "Qwen3-235B-A22B TP8",
        "experts split 8 ways: 192 neurons a rank, below any measured width; the layout may have been EP",
    ),
    ("qwen3-30b-a3b on 2", "two runs of one batch differ by 6 % in time and 17 % in power"),
    ("405B", "all-reduce over 8 GPUs from a fit on 2, and no overlap of it"),
    ("gemma", "256,000 logits and extra norms"),
    ("20000/2000", "batch and prompts beyond what the assumed token budget describes"),
    ("v0.9", "an older engine, without the later kernels"),
)


def reason(row: Judged) -> str:
    """The likely reason of a large error, by what the row is."""
    text = f"{row.group} {row.name}"
    return next((why for word, why in REASONS if word in text), "not known")


def worst(rows: Sequence[Judged], most: int = WORST) -> list[dict[str, Any]]:
    """The rows furthest off, one figure of each."""
    import math

    ordered = sorted(rows, key=lambda row: -abs(math.log(row.ratio)))
    unique = {row.name: row for row in reversed(ordered)}
    found = sorted(unique.values(), key=lambda row: -abs(math.log(row.ratio)))[:most]
    return [
        {"row": r.name, "group": r.group, "quantity": r.quantity, "predicted / measured": r.ratio, "reason": reason(r)}
        for r in found
    ]


def write_page(rows: Sequence[Judged], left: Sequence[Unexpressed], folder: Path) -> Path:
    """Write published.html (self-contained), published.csv and published.svg into `folder`."""
    import pandas as pd
    from jinja2 import Environment, PackageLoader, select_autoescape

    folder.mkdir(parents=True, exist_ok=True)
    picture = _picture(rows)
    (folder / "published.svg").write_text(picture, encoding="utf-8")
    frame = pd.DataFrame([{**_plain(row), "ratio": row.ratio, "inside": row.inside} for row in rows])
    frame.to_csv(folder / "published.csv", index=False)
    pages = Environment(loader=PackageLoader("sparsesim.report"), autoescape=select_autoescape())
    page = pages.get_template("published.html.j2")
    text = page.render(groups=table(rows), worst=worst(rows), left=left, picture=picture)
    part = folder / ".published.html"
    part.write_text(text, encoding="utf-8")
    return part.replace(folder / "published.html")


def _plain(row: Judged) -> dict[str, Any]:
    return {name: getattr(row, name) for name in Judged.__dataclass_fields__}


def _picture(rows: Sequence[Judged]) -> str:
    """Predicted against measured, one small panel a quantity, one colour a group, as SVG."""
    import io

    import numpy as np
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    quantities = list(dict.fromkeys((row.quantity, row.unit) for row in rows))
    columns = 3
    lines = -(-len(quantities) // columns)
    figure = Figure(figsize=(4.2 * columns, 4.2 * lines), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(lines, columns, squeeze=False).ravel()
    for panel, (quantity, unit) in zip(panels, quantities, strict=False):
        own = [row for row in rows if row.quantity == quantity]
        for group in dict.fromkeys(row.group for row in own):
            some = [row for row in own if row.group == group]
            panel.loglog([r.measured for r in some], [r.predicted for r in some], "o", markersize=3, label=group)
        ends = np.array([min(r.measured for r in own) / 1.3, max(r.measured for r in own) * 1.3])
        panel.loglog(ends, ends, color="0.25", linewidth=0.8)
        panel.fill_between(ends, ends / 1.15, ends * 1.15, color="0.9", zorder=0)
        for axis in (panel.xaxis, panel.yaxis):
            axis.set_minor_formatter(NullFormatter())
        panel.set(title=f"{quantity}, {unit}", xlabel="measured", ylabel="predicted")
        panel.legend(fontsize=6, frameon=False)
    for panel in panels[len(quantities) :]:
        panel.set_axis_off()
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
