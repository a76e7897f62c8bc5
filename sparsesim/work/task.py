"""A named op inside a model's step."""

from __future__ import annotations

from dataclasses import dataclass

from sparsesim.work.base import Op


@dataclass(frozen=True, slots=True)
class Task:
    """`count` launches of one op; `part` is the path a report groups by, such as `attention.qkv`."""

    part: str
    op: Op
    count: float = 1.0

    def times(self, factor: float) -> Task:
        """The same task repeated in `factor` layers."""
        return Task(self.part, self.op, self.count * factor)
