"""A profile as rows: every figure with its source."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from sparsesim.hardware.device import Device
from sparsesim.hardware.figure import Figure


def figures(device: Device) -> list[dict[str, Any]]:
    """Rows of figure, value, source and note."""
    dumped = device.model_dump(mode="json")
    return list(_walk(device, dumped, ""))


def _walk(value: Any, dumped: Any, path: str) -> Iterator[dict[str, Any]]:
    if isinstance(value, Figure):
        yield {"figure": path, "value": dumped["value"], "source": value.source, "note": value.note}
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _walk(getattr(value, name), dumped[name], f"{path}.{name}".lstrip("."))
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _walk(item, dumped[name], f"{path}.{name}")
