"""Boards under MLC: two constants from 14 published decode rows; `python -m sparsesim.cost.edge.mlc`.

A token's time is the sum of the model's own kernels (4-bit weights, LM head included) in `cost.forms`, with

    start_s         a kernel's fixed time at the reference clock, longer as the GPU's clock is lower: start_s f_ref / f
    host_per_logit  sampling on the host, for each entry of the vocabulary

so that norms (kernels), layers (kernels) and the vocabulary (head bytes and sampling) have terms of their own. Weights
stream at BANDWIDTH of the board's; left free it runs to its bound, 1, so these rows do not identify it. The same
constants serve every board by its clock, bandwidth and peak; boards without rows name the result as `fit_base`.
Residuals are logarithms, robust (soft L1), with weak priors; errors are of rows whose model was left out of the fit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from sparsesim.cost.edge.single import Single
from sparsesim.cost.fitted import ClassFit, Fit
from sparsesim.cost.forms import FORMS
from sparsesim.cost.kernel import CostModel
from sparsesim.cost.neuromorphic.claims import TABLE, published_rows
from sparsesim.cost.power import power_model
from sparsesim.errors import InputError, Problem
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.hardware.engine import load_engine, with_numbers
from sparsesim.hardware.profile import load_device
from sparsesim.loading import data_root
from sparsesim.model import Precision, load_model

PRECISION = Precision(weights="int4-g32", activations="fp16", kv="fp16", state="fp16", head="int4-g32")
"""MLC's q4f16_1: 4-bit weights in groups of 32 with an fp16 scale, embedding and head included."""
CONTEXT_TOK = 256.0
"""Tokens in the context of a published decode figure: not stated; assumed."""
REFERENCE_HZ = 1020e6
"""Clock at which `start_s` is stated: the Orin Nano Super's."""
GEMV_ROWS = 1.0
"""Decode products of one token are matrix-vector kernels: nothing is padded to a tile."""
SHARP = 16.0
"""Exponent of the maximum of memory and compute: boards at batch 1 are far from the knee."""
MODELS = {
    "Llama-3.1-8B": "llama-3.1-8b",
    "Llama-3.2-3B": "llama-3.2-3b",
    "Llama-3.2-1B": "llama-3.2-1b",
    "Qwen2.5-7B": "qwen2.5-7b",
    "Gemma-2-2B": "gemma-2-2b",
    "Gemma-2-9B": "gemma-2-9b",
    "Phi-3.5-3B": "phi-3.5-mini",
    "SmolLM2": "smollm2-1.7b",
}
BOARDS = {
    "Jetson Orin Nano 8GB (original mode)": "jetson-orin-nano",
    "Jetson Orin Nano Super 8GB": "jetson-orin-nano-super",
}
TRANSFERRED = ("jetson-orin-nx", "jetson-agx-orin", "jetson-agx-orin-32gb", "jetson-agx-thor")
BANDWIDTH = 0.95
"""Share of the datasheet's bandwidth: assumed, what refresh and turnarounds leave of LPDDR5."""
_START = {"start_s": 15e-6, "host_per_logit": 40e-9}
_LOW = {"start_s": 1e-6, "host_per_logit": 1e-10}
_HIGH = {"start_s": 2e-4, "host_per_logit": 1e-6}
_SPREAD = {"start_s": 1.0, "host_per_logit": 1.0}
"""Standard deviations of the weak priors, of logarithms."""
_PRIOR_WEIGHT = 0.06


@dataclass(frozen=True, slots=True)
class Row:
    """A published decode rate at batch 1."""

    model: str
    board: str
    tok_per_s: float


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Predicted over measured tokens/s of a row whose model was not fitted on."""

    row: Row
    ratio: float

    @property
    def error(self) -> float:
        """Relative, absolute."""
        return abs(self.ratio - 1.0)


def mlc_rows(table: Sequence[Mapping[str, str]] | None = None) -> tuple[Row, ...]:
    """The rows of MLC with 4-bit weights."""
    rows = published_rows() if table is None else table
    return tuple(
        Row(MODELS[row["model"]], BOARDS[row["hardware"]], float(row["value"]))
        for row in rows
        if row["workload"] == "decode, INT4 (MLC)"
    )


def load_board(name: str) -> Gpu:
    """A board's profile.

    Raises:
        InputError: it is not a GPU's.

    """
    device = load_device(name)
    if not isinstance(device, Gpu):
        raise InputError(Problem(f"{name} is not a GPU"))
    return device


def board_fit(board: Gpu, constants: Mapping[str, float]) -> Fit:
    """The constants as classes of kernels of one board."""
    start = constants["start_s"] * REFERENCE_HZ / board.clock.max.value
    classes = {name: ClassFit(p, 0.0, 0, 1.0, _NONE, _NONE[:, 0]) for name, p in _classes(start).items()}
    return Fit(name=board.name, classes=classes)


_NONE = np.zeros((0, 1))
KERNELS = ("gemm.fp16", "gemm.bf16", "pointwise", "attention_decode.fp16.one", "attention_decode.fp16.packed")
"""Kernel classes of a decode step."""


def _classes(start_s: float) -> dict[str, dict[str, float]]:
    shares = {"t0": start_s, "bandwidth": BANDWIDTH, "x_half": 0.0, "p": SHARP}
    found: dict[str, dict[str, float]] = {}
    for kernel_class in KERNELS:
        form = FORMS[kernel_class.split(".")[0]]
        known = {p.name: p.start for p in form.parameters}
        found[kernel_class] = known | {name: value for name, value in shares.items() if name in known}
        if kernel_class.startswith("gemm"):
            found[kernel_class]["rows"] = GEMV_ROWS
    return found


def predict(row: Row, constants: Mapping[str, float]) -> float:
    """Tokens/s of one row."""
    board = load_board(row.board)
    fit = board_fit(board, constants)
    engine = load_engine("mlc", fitted=False)
    engine = with_numbers(engine, {"host_per_logit": constants["host_per_logit"]}, "fitted")
    costs = CostModel(board, board.chip(), fit, power_model(board, fit))
    return float(1.0 / Single(load_model(row.model), PRECISION, costs, engine).decode(CONTEXT_TOK)[0])


def fit_constants(rows: Sequence[Row]) -> dict[str, float]:
    """The constants that these rows ask for."""
    names = list(_START)
    centre = np.log([_START[n] for n in names])
    spread = np.array([_SPREAD[n] for n in names])
    measured = np.log([row.tok_per_s for row in rows])

    def residuals(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        constants = dict(zip(names, np.exp(x), strict=True))
        errors = np.log([predict(row, constants) for row in rows]) - measured
        return np.concatenate([errors, _PRIOR_WEIGHT * (x - centre) / spread])

    bounds = (np.log([_LOW[n] for n in names]), np.log([_HIGH[n] for n in names]))
    found = least_squares(residuals, centre, bounds=bounds, loss="soft_l1", f_scale=0.1, diff_step=1e-3)
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def leave_one_model_out(rows: Sequence[Row]) -> tuple[LeftOut, ...]:
    """Every row predicted by constants fitted without its model."""
    found = []
    for model in dict.fromkeys(row.model for row in rows):
        constants = fit_constants([row for row in rows if row.model != model])
        found += [LeftOut(row, predict(row, constants) / row.tok_per_s) for row in rows if row.model == model]
    return tuple(found)


def profile_document(board: str, constants: Mapping[str, float], errors: Sequence[LeftOut]) -> dict[str, Any]:
    """What the fit of a board holds, in the format of `sparsesim fit`."""
    half_width = _half_width(errors)
    gpu = load_board(board)
    own = sum(e.row.board == board for e in errors)
    classes = {
        name: {"parameters": c.parameters, "half_width": half_width, "rows": own, "distance": 1.0, "residuals": {}}
        for name, c in board_fit(gpu, constants).classes.items()
    }
    return {"profile": board, "classes": classes, "energy": {}, "data": _data(len(errors)), "command": COMMAND}


COMMAND = "python -m sparsesim.cost.edge.mlc"


def _half_width(errors: Sequence[LeftOut]) -> float:
    """Of the 90 % interval, in log: the quantile of the left-out errors."""
    return float(np.quantile([abs(np.log(e.ratio)) for e in errors], 0.9))


def _data(rows: int) -> dict[str, Any]:
    path = data_root() / "calibration" / "published" / TABLE
    return {
        "file": f"calibration/published/{TABLE}",
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "rows": rows,
    }


def engine_document(constants: Mapping[str, float], errors: Sequence[LeftOut]) -> dict[str, Any]:
    """What hwprofiles/fits/engines/mlc.json holds: the constants, and the error of every left-out row."""
    relative = [e.error for e in errors]
    return {
        "name": "mlc",
        "values": {"host_per_logit": constants["host_per_logit"]},
        "half_width": _half_width(errors),
        "constants": dict(constants),
        "reference_hz": REFERENCE_HZ,
        "left_out": {f"{e.row.model} on {e.row.board}": round(e.ratio - 1.0, 4) for e in errors},
        "median": float(np.median(relative)),
        "mape": float(np.mean(relative)),
        "data": _data(len(errors)),
        "command": COMMAND,
    }


def main() -> None:
    """Fit and write below --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("hwprofiles"), help="folder that holds fits/")
    fits = parser.parse_args().out / "fits"
    (fits / "engines").mkdir(parents=True, exist_ok=True)
    rows = mlc_rows()
    constants, errors = fit_constants(rows), leave_one_model_out(rows)
    for board in (*BOARDS.values(), *TRANSFERRED):
        gpu = load_board(board)
        document = profile_document(board, constants, errors)
        (fits / f"{gpu.fit or gpu.fit_base}.json").write_text(json.dumps(document, indent=2) + "\n")
    document = engine_document(constants, errors)
    (fits / "engines" / "mlc.json").write_text(json.dumps(document, indent=2) + "\n")
    print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
