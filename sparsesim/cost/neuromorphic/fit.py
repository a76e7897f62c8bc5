"""Fits Loihi 2's five constants to the published dense measurement: `python -m sparsesim.cost.neuromorphic.fit`.

Two throughputs, two energies and the published share of communication give, exactly,

    link_s       = share t_pre / (rho d)                         the link's messages in a pipelined step
    time_scale   = ((1 - share) t_pre - barrier) / core_s        events of the slowest core
    fall_through = (t_gen - link - barriers) / core_s of all phases
    static_w, energy_scale: E = chips static_w t + energy_scale E_events in both phases

with the dense model's natural densities, since cores skip zeros in it too. There are as many constants as figures, so
the residuals are zero and say nothing; what can be checked is named in docs/neuromorphic.md: the same events with the
published speed-ups of single operations, nothing fitted, and other publications.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sparsesim.cost.neuromorphic.claims import TABLE, figure
from sparsesim.cost.neuromorphic.closed_form import TokenCost, token_cost
from sparsesim.cost.neuromorphic.densities import Phase, load_densities
from sparsesim.cost.neuromorphic.machine import FITTED, UNFITTED, machine
from sparsesim.cost.neuromorphic.mapping import map_stages
from sparsesim.cost.neuromorphic.published import COMMUNICATION_SHARE
from sparsesim.cost.neuromorphic.stages import stages_of
from sparsesim.hardware.device.neuromorphic import Neuromorphic
from sparsesim.hardware.profile import load_device
from sparsesim.loading import data_root
from sparsesim.model import load_model

MODEL = "mmfreelm-370m"
DENSITIES = "mmfreelm-370m-silu"
UNITS = {"time_scale": "1", "energy_scale": "1", "static_w": "W", "link_s": "s", "fall_through": "1"}


@dataclass(frozen=True, slots=True)
class Measured:
    """The dense model on 24 chips: tokens/s and J/token of each phase."""

    prefill_tok_per_s: float
    generate_tok_per_s: float
    prefill_j: float
    generate_j: float
    communication: float = COMMUNICATION_SHARE


def published_dense() -> Measured:
    """As quoted in arXiv:2608.30439 Table I."""
    return Measured(
        prefill_tok_per_s=figure("lo2_mmf_dense_pre_tput_500"),
        generate_tok_per_s=figure("lo2_mmf_dense_gen_tput_500"),
        prefill_j=figure("lo2_mmf_dense_pre_mj_500") * 1e-3,
        generate_j=figure("lo2_mmf_dense_gen_mj_500") * 1e-3,
        communication=figure("sp_comm_overhead") / 100.0,
    )


def fit(device: Neuromorphic, measured: Measured) -> dict[str, float]:
    """The five constants."""
    step_s, token_s = 1.0 / measured.prefill_tok_per_s, 1.0 / measured.generate_tok_per_s
    messages = _dense(device, {"link_s": 1.0}, "prefill").stages[0].link_s
    link_s = measured.communication * step_s / messages
    slowest = max(_dense(device, UNFITTED, "prefill").stages, key=lambda s: s.core_s)
    scale = ((1.0 - measured.communication) * step_s - slowest.barrier_s) / slowest.core_s
    times = {**UNFITTED, "time_scale": scale, "link_s": link_s}
    falling = _dense(device, times, "generate").stages
    inside = sum(s.core_s for s in falling)
    fall_through = (token_s - sum(s.link_s + s.barrier_s for s in falling)) / inside
    prefill, generate = (_dense(device, times, p) for p in ("prefill", "generate"))
    chips = device.chips.value
    equations = np.array([[chips * step_s, prefill.dynamic_j], [chips * token_s, generate.dynamic_j]])
    static_w, energy_scale = np.linalg.solve(equations, [measured.prefill_j, measured.generate_j])
    found = {"time_scale": scale, "energy_scale": float(energy_scale), "static_w": float(static_w)}
    return {**found, "link_s": link_s, "fall_through": fall_through}


def _dense(device: Neuromorphic, constants: Mapping[str, float], phase: Phase) -> TokenCost:
    m = machine(device, constants)
    return token_cost(map_stages(stages_of(load_model(MODEL), load_densities(DENSITIES), phase), m), m, phase)


def document(device: Neuromorphic, constants: Mapping[str, float], measured: Measured) -> dict[str, Any]:
    """What hwprofiles/fits/NAME.json holds: constants with units, data with its hash, residuals."""
    data = (data_root() / "calibration" / "published" / TABLE).read_bytes()
    return {
        "name": device.name,
        "kind": "neuromorphic",
        "constants": {name: {"value": constants[name], "unit": UNITS[name]} for name in FITTED},
        "data": {
            "file": f"calibration/published/{TABLE}",
            "sha256": hashlib.sha256(data).hexdigest(),
            "rows": 5,
            "model": MODEL,
            "densities": DENSITIES,
            "source": "arXiv:2503.18002 as quoted in arXiv:2608.30439 Table I",
        },
        "residuals": residuals(device, constants, measured),
        "remark": "five constants from five figures: the residuals are zero by construction",
        "command": "python -m sparsesim.cost.neuromorphic.fit",
    }


def residuals(device: Neuromorphic, constants: Mapping[str, float], measured: Measured) -> dict[str, float]:
    """Model over measured, less one."""
    prefill, generate = (_dense(device, constants, p) for p in ("prefill", "generate"))
    return {
        "prefill_tok_per_s": 1.0 / prefill.interval_s / measured.prefill_tok_per_s - 1.0,
        "generate_tok_per_s": 1.0 / generate.interval_s / measured.generate_tok_per_s - 1.0,
        "prefill_j": sum(prefill.energy_j.values()) / measured.prefill_j - 1.0,
        "generate_j": sum(generate.energy_j.values()) / measured.generate_j - 1.0,
    }


def main() -> None:
    """Write hwprofiles/fits/loihi2.json (or below --out)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("hwprofiles"), help="folder that holds fits/")
    path = parser.parse_args().out / "fits" / "loihi2.json"
    device = load_device("loihi2")
    assert isinstance(device, Neuromorphic)
    measured = published_dense()
    constants = fit(device, measured)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document(device, constants, measured), indent=2) + "\n")
    print(f"{path}: " + ", ".join(f"{name} {value:.6g} {UNITS[name]}" for name, value in constants.items()))


if __name__ == "__main__":
    main()
