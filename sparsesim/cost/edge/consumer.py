"""A consumer card's energy, from 18 published prefill rows; `python -m sparsesim.cost.edge.consumer`.

    E = static_w t + compute_j F + memory_j B

t: the forms' time on datasheet figures plus the eager framework's gap per kernel (`hwprofiles/engines/hf-eager.yaml`);
F: executed FLOP; B: bytes. The rows hold energies only, of one phase, so just two constants can be told apart: the
static power (of which the gaps take the most: static_w times the gap is what the short prompts fix) and the energy of a
FLOP. The memory's energy per byte is held at an assumed figure. Residuals are relative, coefficients not negative.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import nnls

from sparsesim.cost.edge.mlc import load_board
from sparsesim.cost.edge.single import Single
from sparsesim.cost.fitted import Fit
from sparsesim.cost.kernel import CostModel
from sparsesim.cost.neuromorphic.claims import published_rows
from sparsesim.cost.power import energy_figures, figures_behind, power_model
from sparsesim.hardware.engine import load_engine
from sparsesim.loading import data_root
from sparsesim.model import Precision, load_model

TABLE = "ssm_hybrid_measured.csv"
CARD = "rtx-4090"
ENGINE = "hf-eager"
MEMORY_J_PER_BYTE = 58e-12
"""GDDR6X at 7.25 pJ/bit: assumed, its maker's figure for the interface; the rows do not identify it."""
MODELS = {
    "Qwen2.5-0.5B-Instruct": "qwen2.5-0.5b",
    "Mamba2-780m": "mamba2-780m",
    "Falcon-H1-0.5B": "falcon-h1-0.5b",
}
COMMAND = "python -m sparsesim.cost.edge.consumer"


@dataclass(frozen=True, slots=True)
class Row:
    """Energy of the prefill of one prompt at batch 1."""

    model: str
    prompt_tok: float
    energy_j: float


@dataclass(frozen=True, slots=True)
class Work:
    """What a row's prefill asks: seconds, executed FLOP, bytes."""

    time_s: float
    flop: float
    bytes: float


def rows() -> tuple[Row, ...]:
    """The 18 published rows."""
    return tuple(
        Row(MODELS[r["model"]], float(r["input_len"]), float(r["value"]))
        for r in published_rows(TABLE)
        if r["metric"] == "prefill_energy"
    )


def work(row: Row) -> Work:
    """Time on datasheet figures, executed FLOP and bytes: the cost model with 1 J per FLOP and per byte and no cap."""
    card = load_board(CARD)
    counted = replace(
        power_model(card, Fit()),
        static_w=0.0,
        cap_w=np.inf,
        memory_j_per_byte=1.0,
        compute_j_per_flop=dict.fromkeys(("bf16", "fp32", "fp16"), 1.0),
    )
    costs = CostModel(card, card.chip(), Fit(), counted)
    time_s, flop, hbm, _, _ = Single(load_model(row.model), Precision(), costs, load_engine(ENGINE)).prefill(
        row.prompt_tok
    )
    return Work(float(time_s), float(flop), float(hbm))


def fit(given: Sequence[Row], works: Sequence[Work]) -> tuple[float, float]:
    """`static_w` and J/FLOP that make the relative errors least in squares."""
    measured = np.array([r.energy_j for r in given])
    columns = np.array([[w.time_s, w.flop] for w in works])
    rest = measured - MEMORY_J_PER_BYTE * np.array([w.bytes for w in works])
    found, _ = nnls(columns / measured[:, None], rest / measured)
    return float(found[0]), float(found[1])


def predict(works: Sequence[Work], static_w: float, flop_j: float) -> npt.NDArray[np.float64]:
    """Joules of each row."""
    return np.array([static_w * w.time_s + flop_j * w.flop + MEMORY_J_PER_BYTE * w.bytes for w in works])


def leave_one_model_out(given: Sequence[Row], works: Sequence[Work]) -> npt.NDArray[np.float64]:
    """Predicted over measured energy, each row by constants fitted without its model."""
    ratio = np.zeros(len(given))
    for model in dict.fromkeys(r.model for r in given):
        out = np.array([r.model == model for r in given])
        kept = [(r, w) for r, w, o in zip(given, works, out, strict=True) if not o]
        constants = fit([r for r, _ in kept], [w for _, w in kept])
        energy = predict(works, *constants)
        ratio[out] = energy[out] / np.array([r.energy_j for r in given])[out]
    return ratio


def document(given: Sequence[Row], works: Sequence[Work]) -> Mapping[str, Any]:
    """What hwprofiles/fits/rtx-4090.json holds: energy only, no kernel class."""
    static_w, flop_j = fit(given, works)
    inside = predict(works, static_w, flop_j) / np.array([r.energy_j for r in given]) - 1.0
    outside = leave_one_model_out(given, works) - 1.0
    path = data_root() / "calibration" / "published" / TABLE
    energy = {
        "static_w": static_w,
        "memory_j_per_byte": MEMORY_J_PER_BYTE,
        "compute_j_per_flop": {"bf16": flop_j},
    }
    return {
        "name": CARD,
        "classes": {},
        "energy": energy | {"of": figures_behind(energy, energy_figures(load_board(CARD)))},
        "errors": {
            "mape": float(np.mean(np.abs(inside))),
            "left_out_median": float(np.median(np.abs(outside))),
            "left_out_mape": float(np.mean(np.abs(outside))),
        },
        "left_out": {
            f"{r.model}, {r.prompt_tok:g} tok": round(float(e), 4) for r, e in zip(given, outside, strict=True)
        },
        "data": {
            "file": f"calibration/published/{TABLE}",
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "rows": len(given),
        },
        "command": COMMAND,
    }


def main() -> None:
    """Fit and write below --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("hwprofiles"), help="folder that holds fits/")
    path = parser.parse_args().out / "fits" / f"{CARD}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    given = rows()
    path.write_text(json.dumps(document(given, [work(row) for row in given]), indent=2) + "\n")
    print(path.read_text())


if __name__ == "__main__":
    main()
