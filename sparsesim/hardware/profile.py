"""Reading hardware profiles by name or path."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from sparsesim.hardware.device import Device
from sparsesim.loading import available, build, find, load_yaml

_FOLDER = "hwprofiles"


def load_device(name: str) -> Device:
    """The profile `name` (a name, or a path to a YAML file).

    Raises:
        InputError: unknown name (with the closest), or a faulty file.

    """
    return _read(find(_FOLDER, name, "hardware"))


@lru_cache(maxsize=64)
def _read(path: Path) -> Device:
    document = load_yaml(path)
    device: Device = build(Device, document)
    return device


def device_names() -> list[str]:
    """Names of every profile found."""
    return available(_FOLDER)
