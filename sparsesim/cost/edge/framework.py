"""What eager frameworks lose between kernels, from published generate rows; `python -m sparsesim.cost.edge.framework`.

At batch 1 on a small model the device waits for the host: a token takes K (t_kernel + gap) with K the kernels of an
eager pass, counted from the model's own op list. The gap is what is left of the published time per token, per kernel.
The MatMul-free reference quantises weights and activations anew in every product (some twenty eager passes each, which
our list does not hold), so its gap is several times one launch. Prefill rows of the same pairs are checks.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsesim.cost.edge.mlc import load_board
from sparsesim.cost.edge.single import Single
from sparsesim.cost.kernel import cost_model
from sparsesim.cost.neuromorphic.claims import TABLE, claims, published_rows, select
from sparsesim.hardware.engine import load_engine, with_numbers
from sparsesim.model import Precision, load_model

COMMAND = "python -m sparsesim.cost.edge.framework"


@dataclass(frozen=True, slots=True)
class Pair:
    """A model on a device in its published framework, and how the table names both."""

    engine: str
    model: str
    device: str
    precision: Precision
    table_model: str
    table_hardware: str


PAIRS = (
    Pair(
        "matmulfree-reference",
        "mmfreelm-370m",
        "h100-sxm",
        Precision(weights="ternary", activations="int8"),
        "MMFreeLM-370M dense",
        "H100",
    ),
    Pair(
        "hf-eager-board",
        "qwen2.5-0.5b",
        "jetson-orin-nano",
        Precision(weights="fp16", activations="fp16", kv="fp16", state="fp16"),
        "Qwen2-500M",
        "Jetson Orin Nano",
    ),
)
"""Precisions count the passes: the MatMul-free model quantises each product's input once in our list."""


def generate_times(pair: Pair) -> dict[int, float]:
    """Published seconds per token by length."""
    found = select(claims(published_rows()), pair.table_model, pair.table_hardware)
    return {c.length_tok: 1.0 / c.value for c in found if c.phase == "generate" and c.metric == "throughput"}


def modelled(pair: Pair, gap_s: float, length_tok: float) -> float:
    """Seconds of a token with a gap."""
    engine = with_numbers(load_engine("plain", fitted=False), {"gap": gap_s, "launch": 0.0}, "fitted")
    costs = cost_model(load_board(pair.device))
    return float(Single(load_model(pair.model), pair.precision, costs, engine).decode(length_tok)[0])


def gap_s(pair: Pair) -> float:
    """Mean over the lengths of the gap that gives the published time exactly (a token's time is linear in it)."""
    unit, gaps = 1e-6, []
    for length, seconds in generate_times(pair).items():
        without, with_unit = modelled(pair, 0.0, length), modelled(pair, unit, length)
        gaps.append((seconds - without) / (with_unit - without) * unit)
    return sum(gaps) / len(gaps)


def document(pair: Pair) -> Mapping[str, Any]:
    """What hwprofiles/fits/engines/NAME.json holds."""
    gap, times = gap_s(pair), generate_times(pair)
    ratios = {n: modelled(pair, gap, n) / seconds for n, seconds in times.items()}
    return {
        "name": pair.engine,
        "values": {"gap": gap},
        "half_width": max(abs(math.log(ratio)) for ratio in ratios.values()),
        "fitted_on": f"{pair.table_model} on {pair.table_hardware}, generate",
        "residuals": {f"{n} tok": round(ratio - 1.0, 4) for n, ratio in ratios.items()},
        "data": {"file": f"calibration/published/{TABLE}", "rows": len(times)},
        "command": COMMAND,
    }


def main() -> None:
    """Fit and write below --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("hwprofiles"), help="folder that holds fits/")
    folder = parser.parse_args().out / "fits" / "engines"
    folder.mkdir(parents=True, exist_ok=True)
    for pair in PAIRS:
        path = folder / f"{pair.engine}.json"
        path.write_text(json.dumps(document(pair), indent=2) + "\n")
        print(path.read_text())


if __name__ == "__main__":
    main()
