"""What a deployment costs beyond its devices' energy, for screening and for finalists alike.

Money and carbon are of the devices that stand there and the tokens that are asked for, not of a simulation's window,
whose end (the last requests alone) would blur equal deployments. Scopes stay apart: `energy` is of the devices,
`node` adds host and fans, `facility` multiplies by PUE, `carbon` is of the facility's energy (the node's without a
PUE), `embodied` of making the devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from sparsesim.cost.accumulate import Floats
from sparsesim.scenario import Scenario
from sparsesim.system import PoolSystem

OBJECTIVES = {
    "cost": "cost_per_mtok",
    "energy": "j_per_output_tok",
    "carbon": "carbon_g_per_mtok",
    "gpus": "devices",
    "latency": "e2e_s",
}
"""The column that each objective lowers."""
LABELS = {
    "cost_per_mtok": ("Cost", "USD/Mtok"),
    "j_per_output_tok": ("Energy, devices only", "J/tok"),
    "node_j_per_output_tok": ("Energy, node", "J/tok"),
    "facility_j_per_output_tok": ("Energy, facility", "J/tok"),
    "carbon_g_per_mtok": ("Carbon of energy", "gCO2e/Mtok"),
    "embodied_g_per_mtok": ("Carbon of making the devices", "gCO2e/Mtok"),
    "devices": ("Devices", ""),
    "e2e_s": ("End to end, mean", "s"),
}
"""Name and unit of every column."""


@dataclass(frozen=True, slots=True)
class Rates:
    """Per device: price in USD/s, node share in W, embodied gCO2e/s (arrays: of candidates on mixed devices); of the
    site: PUE and gCO2e/J.
    """

    price_per_s: float | Floats | None
    node_share_w: float | Floats
    embodied_g_per_s: float | Floats | None
    pue: float | None
    carbon_g_per_j: float | None
    assumed: tuple[str, ...] = ()

    def objectives(
        self, power_w: Floats, devices: npt.NDArray[Any], output_tok_per_s: Floats, e2e_s: Floats
    ) -> dict[str, Floats]:
        """Every objective's column from the devices' power and the tokens made."""
        tokens = np.maximum(output_tok_per_s, 1e-300)
        node = (power_w + self.node_share_w * devices) / tokens
        found = {
            "j_per_output_tok": power_w / tokens,
            "node_j_per_output_tok": node,
            "devices": np.asarray(devices, float),
            "e2e_s": e2e_s,
        }
        drawn = node
        if self.pue is not None:
            drawn = found["facility_j_per_output_tok"] = node * self.pue
        if self.carbon_g_per_j is not None:
            found["carbon_g_per_mtok"] = drawn * self.carbon_g_per_j * 1e6
        if self.embodied_g_per_s is not None:
            found["embodied_g_per_mtok"] = self.embodied_g_per_s * devices / tokens * 1e6
        if self.price_per_s is not None:
            found["cost_per_mtok"] = self.price_per_s * devices / tokens * 1e6
        return found


def mixed(sides: Sequence[tuple[Sequence[Rates], npt.NDArray[np.intp], npt.NDArray[Any]]]) -> Rates:
    """Rates per device of candidates that stand on devices of several kinds.

    Args:
        sides: rates to choose from, which of them is each candidate's [candidates], and how many such devices it has.

    """
    whole = np.sum([devices for _, _, devices in sides], axis=0)

    def mean(name: str) -> Floats | None:
        if any(getattr(one, name) is None for rates, _, _ in sides for one in rates):
            return None
        parts = [np.array([getattr(one, name) for one in rates])[which] * count for rates, which, count in sides]
        return np.asarray(np.sum(parts, axis=0) / whole)

    node = mean("node_share_w")
    assert node is not None
    first = sides[0][0][0]
    return replace(
        first, price_per_s=mean("price_per_s"), node_share_w=node, embodied_g_per_s=mean("embodied_g_per_s"), assumed=()
    )


def rates_of(scenario: Scenario, system: PoolSystem) -> Rates:
    """The scenario's own figures, the hardware profile's where it names none."""
    power, economics = scenario.power, system.gpu.economics
    assumed = []
    price = power.price
    if price is None and economics.price is not None:
        price = economics.price.value
        assumed.append(f"{system.gpu.name}: {price * 3600:g} USD per device-hour ({economics.price.source})")
    embodied = None
    if economics.embodied is not None and economics.life is not None:
        embodied = economics.embodied.value / economics.life.value
        assumed.append(
            f"{system.gpu.name}: embodied carbon {economics.embodied.value / 1e3:g} kg over"
            f" {economics.life.value / 3.156e7:.3g} years ({economics.embodied.source}; {economics.life.source})"
        )
    share = system.gpu.node.share
    assumed.append(f"{system.gpu.name}: host and fans {share.value:g} W a device ({share.source})")
    return Rates(price, share.value, embodied, power.pue, power.carbon, tuple(assumed))
