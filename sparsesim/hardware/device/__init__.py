"""Devices: what a model runs on. One kind per file: `gpu`, ..."""

from __future__ import annotations

from sparsesim.families import Member


class Device(Member, family="sparsesim.hardware.device"):
    """A hardware profile, read from hwprofiles/NAME.yaml."""

    name: str
    title: str = ""
