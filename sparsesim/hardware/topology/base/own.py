"""The topology that a hardware profile implies: its own node, or as many as hold the devices, one rail per GPU."""

from __future__ import annotations

from typing import Any

from sparsesim.errors import InputError, Problem
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.hardware.topology.base.family import Topology
from sparsesim.units import show


def own_topology(gpu: Gpu, devices: int) -> Topology:
    """An island where one node holds the devices, else whole nodes on a rail-optimised tree without oversubscription.

    Raises:
        InputError: fewer than two devices, or the profile lacks a link or a NIC that they need.

    """
    per_node = gpu.node.gpus.value
    nodes = -(-devices // per_node)
    if devices < 2:
        raise InputError(Problem(f"{devices} devices make no topology", hint="at least 2"))
    if gpu.link is None:
        raise InputError(
            Problem(f"{gpu.name} has no link between the GPUs of a node", path=f"hwprofiles/{gpu.name}.link")
        )
    link = {
        "link": show(gpu.link.bandwidth.value, "bandwidth", digits=17),
        "link_latency": show(gpu.link.latency.value, "time", digits=17),
        "link_energy": show(gpu.link.energy.value, "energy per byte", digits=17),
    }
    if nodes == 1:
        return Topology.resolve({"kind": "nvlink_island", "gpus": devices, **link})
    return Topology.resolve({"kind": "rail_optimised", "nodes": nodes, "gpus_per_node": per_node, **link, **_nics(gpu)})


def _nics(gpu: Gpu) -> dict[str, Any]:
    if gpu.nic is None or gpu.node.nics.value < 1:
        raise InputError(Problem(f"{gpu.name} has no NIC to leave its node", path=f"hwprofiles/{gpu.name}.nic"))
    return {
        "nic": show(gpu.nic.bandwidth.value, "bandwidth", digits=17),
        "nics_per_node": gpu.node.nics.value,
        "nic_latency": show(gpu.nic.latency.value, "time", digits=17),
        "nic_energy": show(gpu.nic.energy.value, "energy per byte", digits=17),
    }
