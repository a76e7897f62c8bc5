"""A figure and where it comes from."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import field_validator

from sparsesim.families import Frozen

T = TypeVar("T")
KINDS = ("measured", "fitted", "published", "datasheet", "driver", "derived", "assumed")


class Figure(Frozen, Generic[T]):
    """A value with its source; the first word of the source says how far to trust it."""

    value: T
    source: str
    note: str = ""

    @field_validator("source")
    @classmethod
    def _known_kind(cls, source: str) -> str:
        if source.split()[0].rstrip(":,") not in KINDS:
            raise ValueError(f"{source!r} does not begin with one of {', '.join(KINDS)}")
        return source

    @property
    def kind(self) -> str:
        """`measured`, `datasheet`, `assumed`, ..."""
        return self.source.split()[0].rstrip(":,")
