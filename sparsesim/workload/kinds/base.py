"""What every kind of workload answers."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, Self

from sparsesim.errors import Problem
from sparsesim.families import Member
from sparsesim.workload.requests import RequestTable
from sparsesim.workload.streams import Streams

DEFAULT_KIND = "serving"
"""The kind of a workload that names none."""


class Workload(Member, family="sparsesim.workload.kinds"):
    """Requests to serve, or a fixed batch to cost."""

    @classmethod
    def resolve(cls, value: Any) -> Self:
        """As every family, with `kind: serving` where none is named."""
        if isinstance(value, dict) and "kind" not in value:
            value = {"kind": DEFAULT_KIND, **value}
        return super().resolve(value)

    @classmethod
    def _choices(cls) -> list[dict[str, Any]]:
        """As every family's; the default kind may be left out."""
        choices = super()._choices()
        for choice in choices:
            if choice["properties"]["kind"]["const"] == DEFAULT_KIND:
                choice["required"].remove("kind")
        return choices

    @abstractmethod
    def table(self, streams: Streams, folder: Path | None) -> RequestTable:
        """The requests of one run."""

    def problems(self, folder: Path | None) -> list[Problem]:
        """What is wrong beyond the fields, such as a trace that cannot be read."""
        del folder
        return []
