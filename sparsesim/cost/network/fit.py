"""Fit the network's figures to published rows and write hwprofiles/fits/network/*.json.

`python -m sparsesim.cost.network.fit [FOLDER]` makes all of them again. Residuals are logarithms of predicted over
measured, with a soft-L1 loss and weak priors on what some rows alone cannot tell (a left-out EP size must not leave a
bandwidth free). Errors written are those of rows left out of the fit.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from sparsesim.cost.network import collectives
from sparsesim.cost.network.collectives import Protocol
from sparsesim.cost.network.fitted import FOLDER
from sparsesim.cost.network.moe import ExpertKernel, Mode, dispatch_loads
from sparsesim.cost.network.published import LOW_LATENCY, ONE_SIDED, PATH, ExpertRow, bus_rows, data_hash, expert_rows
from sparsesim.cost.network.routing import Visits
from sparsesim.hardware.topology import Fabric, load_topology

PRIOR_WEIGHT = 0.06
"""Residual per e-fold away from a prior's centre: one part in sixteen of a row's (facts, fitting recipe)."""
SIZE_BYTES = 4.0 * 2**30
"""Buffer of the large-message figures: beyond the 256 MB that the published all-reduce needs."""

Kernels = dict[str, ExpertKernel]
Build = Callable[[Sequence[float]], Kernels]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A positive number to fit: its start, and whether the start is a prior."""

    name: str
    unit: str
    start: float
    prior: bool = False
    source: str = ""


def even_visits(ep: int, nodes: int, top_k: int) -> Visits:
    """Of a perfect router: every rank alike, as many distinct ranks as there are choices."""
    copies = np.full(ep, top_k / ep)
    distinct = np.minimum(copies, 1.0)
    return Visits(copies, distinct, np.minimum(1.0, distinct.reshape(nodes, -1).sum(axis=1)))


def predict(row: ExpertRow, kernels: Kernels, fabric: Fabric) -> float:
    """Seconds of a row."""
    kernel = kernels[row.op]
    visits = even_visits(row.ep, row.nodes, row.top_k)
    loads = dispatch_loads(row.tokens, visits, row.token_bytes, fabric, kernel.mode)
    return kernel.time_s(loads if row.op == "dispatch" else loads.reversed(), fabric, row.nodes)


def fit_kernels(rows: Sequence[ExpertRow], parameters: Sequence[Parameter], build: Build, fabric: Fabric) -> Kernels:
    """Kernels whose predictions of the rows are nearest, in logarithms."""
    start = np.log([p.start for p in parameters])
    weight = np.array([PRIOR_WEIGHT if p.prior else 0.0 for p in parameters])

    def residuals(logs: np.ndarray[Any, np.dtype[np.float64]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        kernels = build([float(x) for x in np.exp(logs)])
        errors = [np.log(predict(row, kernels, fabric) / row.seconds) for row in rows]
        return np.array([*errors, *(weight * (logs - start))])

    found = least_squares(residuals, start, loss="soft_l1", f_scale=0.1, diff_step=1e-3)
    return build([float(x) for x in np.exp(found.x)])


def mape(rows: Sequence[ExpertRow], kernels: Kernels, fabric: Fabric) -> float:
    """Mean absolute error over the rows, as a share of the measured value."""
    return float(np.mean([abs(predict(row, kernels, fabric) / row.seconds - 1.0) for row in rows]))


ONE_SIDED_PARAMETERS = tuple(
    Parameter(f"{op}.{name}", unit, start)
    for op in ("dispatch", "combine")
    for name, unit, start in (("fixed_s", "s", 12e-6), ("floor_s", "s", 20e-6), ("link_bytes_per_s", "B/s", 700e9))
)


def one_sided(values: Sequence[float]) -> Kernels:
    """Own latency, floor and bandwidth for either op."""

    def kernel(v: Sequence[float]) -> ExpertKernel:
        return ExpertKernel(mode="one_sided", fixed_s=v[0], floor_s=v[1], link_bytes_per_s=v[2])

    return {"dispatch": kernel(values[:3]), "combine": kernel(values[3:])}


LOW_LATENCY_PARAMETERS = (
    Parameter("dispatch.fixed_s", "s", 37e-6),
    Parameter("combine.fixed_s", "s", 37e-6),
    Parameter("per_doubling_s", "s", 1e-6, True, "assumed, a few switch hops"),
    Parameter("link_bytes_per_s", "B/s", 160e9, True, "published, NVLink of an H800 tops out near 160 GB/s (DeepEP)"),
    Parameter("nic_bytes_per_s", "B/s", 48.5e9, True, "published, 48-49 GB/s a NIC (nccl-tests issue 267)"),
)


def low_latency(values: Sequence[float]) -> Kernels:
    """Own latency for either op; both share the hardware."""
    dispatch, combine, doubling, link, nic = values
    shared: dict[str, Any] = {"per_doubling_s": doubling, "link_bytes_per_s": link, "nic_bytes_per_s": nic}
    mode: Mode = "low_latency"
    return {
        "dispatch": ExpertKernel(mode=mode, fixed_s=dispatch, **shared),
        "combine": ExpertKernel(mode=mode, fixed_s=combine, **shared),
    }


def half_width(ratios: Sequence[float]) -> float:
    """90 % quantile of the absolute log errors of rows left out."""
    return float(np.quantile(np.abs(ratios), 0.9))


def log_ratios(rows: Sequence[ExpertRow], kernels: Kernels, fabric: Fabric) -> list[float]:
    """Logarithms of predicted over measured."""
    return [float(np.log(predict(row, kernels, fabric) / row.seconds)) for row in rows]


def alternate(rows: Sequence[ExpertRow]) -> tuple[list[ExpertRow], list[ExpertRow]]:
    """Rows of every other size (per EP and op, in order of tokens), and the others."""
    fitted: list[ExpertRow] = []
    held: list[ExpertRow] = []
    for key in sorted({(row.ep, row.op) for row in rows}):
        some = sorted((row for row in rows if (row.ep, row.op) == key), key=lambda row: row.tokens)
        fitted += some[::2]
        held += some[1::2]
    return fitted, held


def fit_gb200() -> dict[str, Any]:
    """One-sided kernels in an NVL72 domain: every other size fitted, the others and other dtypes predicted."""
    fabric = load_topology("nvl72").fabric()
    rows = expert_rows(ONE_SIDED)
    sizes = list(dict.fromkeys(row for row in rows if row.dtype == "bf16"))
    fitted, held = alternate(sizes)
    kernels = fit_kernels(fitted, ONE_SIDED_PARAMETERS, one_sided, fabric)
    other = [row for row in rows if row.dtype != "bf16"]
    errors = {
        "fitted_sizes": mape(fitted, kernels, fabric),
        "left_out_sizes": mape(held, kernels, fabric),
        "other_dtypes": mape(other, kernels, fabric),
    }
    trust = half_width(log_ratios([*held, *other], kernels, fabric))
    return {"topology": "nvl72", "half_width": trust} | _document(
        kernels, [*sizes, *other], fabric, errors, ONE_SIDED_PARAMETERS
    )


def fit_h800() -> dict[str, Any]:
    """Low-latency kernels over nodes of eight: every EP size left out in turn, then all fitted."""
    fabric = load_topology("h800-cluster").fabric()
    rows = expert_rows(LOW_LATENCY)
    errors, unseen = {}, []
    for ep in sorted({row.ep for row in rows}):
        kept, held = [r for r in rows if r.ep != ep], [r for r in rows if r.ep == ep]
        without = fit_kernels(kept, LOW_LATENCY_PARAMETERS, low_latency, fabric)
        errors[f"left_out_ep{ep}"] = mape(held, without, fabric)
        unseen += log_ratios(held, without, fabric)
    kernels = fit_kernels(rows, LOW_LATENCY_PARAMETERS, low_latency, fabric)
    left_out = {"left_out": float(np.mean(list(errors.values()))), **errors}
    return {"topology": "h800-cluster", "half_width": half_width(unseen)} | _document(
        kernels, rows, fabric, {"fitted": mape(rows, kernels, fabric), **left_out}, LOW_LATENCY_PARAMETERS
    )


def _document(
    kernels: Kernels, rows: Sequence[ExpertRow], fabric: Fabric, errors: dict[str, float], fitted: Sequence[Parameter]
) -> dict[str, Any]:
    residuals = [
        {**asdict(row), "predicted_s": p, "log_ratio": float(np.log(p / row.seconds))}
        for row in rows
        for p in [predict(row, kernels, fabric)]
    ]
    return {
        "parameters": {p.name: {"unit": p.unit, "prior": p.source} for p in fitted},
        "kernels": {op: asdict(kernel) for op, kernel in kernels.items()},
        "mean_absolute_error": errors,
        "residuals": residuals,
    }


def nccl_bus(collective: str, protocol: Protocol, algorithm: str | None = None) -> float:
    """Bus bandwidth of large messages on eight H100s behind NVSwitch."""
    at = collectives.spread(8, load_topology("nvlink-island").fabric())
    seconds = collectives.time_s(collective, SIZE_BYTES, at, protocol, algorithm)
    return float(collectives.bus_bandwidth(collective, SIZE_BYTES, 8, seconds))


def fit_h100() -> dict[str, Any]:
    """Efficiencies of links, of in-switch reduction and of NICs, each from the first row that states it."""
    rows = bus_rows()
    ideal = Protocol()
    link, switch, nic = (
        next(r for r in rows if r.op.startswith(op)) for op in ("non-allreduce", "allreduce (NVLS)", "net")
    )
    protocol = Protocol(
        link_efficiency=link.bytes_per_s / nccl_bus("all_gather", ideal, "ring"),
        switch_efficiency=switch.bytes_per_s / nccl_bus("all_reduce", ideal, "in_switch"),
        nic_efficiency=nic.bytes_per_s / load_topology("h100-cluster").fabric().nic_bytes_per_s,
    )
    predicted = {
        "non-allreduce collectives / ring": nccl_bus("all_gather", protocol, "ring"),
        "allreduce (NVLS)": nccl_bus("all_reduce", protocol),
        "network": load_topology("h100-cluster").fabric().nic_bytes_per_s * protocol.nic_efficiency,
    }
    residuals = [
        {**asdict(row), "predicted": predicted[row.op], "log_ratio": float(np.log(predicted[row.op] / row.bytes_per_s))}
        for row in rows
        if row.op in predicted
    ]
    left = [
        {**asdict(row), "reason": "the number of bridged links is not published"}
        for row in rows
        if row.op not in predicted
    ]
    return {"protocol": asdict(protocol), "residuals": residuals, "not_predicted": left}


FITS: dict[str, Callable[[], dict[str, Any]]] = {
    "gb200-nvl72": fit_gb200,
    "h800-deepep": fit_h800,
    "h100-nccl": fit_h100,
}


def write_all(folder: Path) -> list[Path]:
    """Make every fit and write it."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, make in FITS.items():
        document = {
            "name": name,
            "made_by": "python -m sparsesim.cost.network.fit",
            "data": {"file": PATH, "sha256": data_hash()},
            **make(),
        }
        path = folder / f"{name}.json"
        path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
        written.append(path)
    return written


def main() -> None:
    """Write every fit."""
    parser = argparse.ArgumentParser(description="Fits of the network's kernels to the published rows.")
    parser.add_argument("--out", type=Path, default=Path(FOLDER), help="folder to write to")
    for path in write_all(parser.parse_args().out):
        sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
