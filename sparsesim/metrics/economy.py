"""From the devices' energy to node, facility, carbon and money: each apart, each only where it was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparsesim.scenario import Power


def economy(summary: Mapping[str, Any], power: Power, devices: float, node_share_w: float) -> dict[str, float | None]:
    """What the window cost beyond the devices; per token means per output token, or per token of a fixed batch's step.

    Node energy adds `node_share_w` (host and fans) for every device, and is left out where that is 0; facility energy
    is that times PUE; carbon is of the facility's energy where a PUE is given, else of the node's; money is the price
    of the device-hours, in its own currency.
    """
    seconds = float(summary["duration_s"])
    tokens = float(summary.get("tok_per_s") or summary.get("output_tok_per_s") or 0.0) * seconds
    node = float(summary["energy_j"]) + node_share_w * devices * seconds
    found: dict[str, float | None] = {}
    if node_share_w > 0:
        found |= {"node_energy_j": node, "node_j_per_output_tok": _per(node, tokens)}
    drawn = node
    if power.pue is not None:
        drawn = node * power.pue
        found |= {"facility_energy_j": drawn, "facility_j_per_output_tok": _per(drawn, tokens)}
    if power.carbon is not None:
        grams = drawn * power.carbon
        found |= {"carbon_g": grams, "carbon_g_per_mtok": _per(grams * 1e6, tokens)}
    if power.price is not None:
        money = power.price * devices * seconds
        found |= {"cost": money, "cost_per_mtok": _per(money * 1e6, tokens)}
    return found


def _per(amount: float, tokens: float) -> float | None:
    return amount / tokens if tokens > 0 else None
