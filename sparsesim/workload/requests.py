"""The table of requests that a simulation consumes: one row per request, in order of arrival."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PrefixBlocks:
    """Identities of the prompts' leading blocks; equal ids at equal places mean a reusable prefix.

    `ids[offsets[i]:offsets[i + 1]]` are the blocks of request i, first to last; each stands for `block_tok`
    tokens (the last may be partly filled).
    """

    ids: Ints
    offsets: Ints
    block_tok: int

    def of(self, request: int) -> Ints:
        """The block ids of one request."""
        return self.ids[self.offsets[request] : self.offsets[request + 1]]

    def take(self, rows: Ints) -> PrefixBlocks:
        """The blocks of some requests, in the order given."""
        counts = np.diff(self.offsets)[rows]
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        inside = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], counts)
        return PrefixBlocks(self.ids[np.repeat(self.offsets[rows], counts) + inside], offsets, self.block_tok)


@dataclass(frozen=True, slots=True)
class RequestTable:
    """What is asked of the deployment.

    Rows are sorted by `arrival_s` (seconds from the start). A row with `follows[i] = j >= 0` is the next
    turn of a session: it arrives `think_s[i]` after request j has finished, and `arrival_s[i]` is the
    earliest that can be (service in no time). Where `concurrency` is set the loop is closed: that many
    requests are in flight, the first ones at 0 s, and whenever one ends the next row arrives `think_s`
    later.
    """

    arrival_s: Floats
    prompt_tok: Ints
    output_tok: Ints
    client: Ints
    priority: Ints
    follows: Ints
    think_s: Floats
    prefix_blocks: PrefixBlocks | None = None
    concurrency: int | None = None

    @classmethod
    def of(cls, arrival_s: Any, prompt_tok: Any, output_tok: Any, **others: Any) -> RequestTable:
        """A table from columns; client and priority are 0, nothing follows anything, unless given."""
        arrival = np.asarray(arrival_s, dtype=np.float64)
        count = len(arrival)
        columns: dict[str, Any] = {
            "client": np.zeros(count, np.int64),
            "priority": np.zeros(count, np.int64),
            "follows": np.full(count, -1, np.int64),
            "think_s": np.zeros(count),
        }
        columns.update({name: value for name, value in others.items() if value is not None})
        return cls(arrival, np.asarray(prompt_tok, np.int64), np.asarray(output_tok, np.int64), **columns)

    def __post_init__(self) -> None:
        lengths = {f.name: len(v) for f in fields(self) if isinstance(v := getattr(self, f.name), np.ndarray)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns differ in length: {lengths}")

    def __len__(self) -> int:
        return len(self.arrival_s)

    def take(self, rows: Any) -> RequestTable:
        """Some rows, in the order given; a predecessor left out makes its follower a first turn."""
        rows = np.asarray(rows, dtype=np.int64)
        place = np.full(len(self) + 1, -1, np.int64)
        place[rows] = np.arange(len(rows))
        columns = {f.name: v[rows] for f in fields(self) if isinstance(v := getattr(self, f.name), np.ndarray)}
        columns["follows"] = place[columns["follows"]]
        blocks = self.prefix_blocks.take(rows) if self.prefix_blocks is not None else None
        return replace(self, **columns, prefix_blocks=blocks)

    def labelled(self, client: int, priority: int) -> RequestTable:
        """The same requests, all of one client and priority."""
        count = len(self)
        return replace(self, client=np.full(count, client, np.int64), priority=np.full(count, priority, np.int64))

    def by_arrival(self) -> RequestTable:
        """The rows sorted by arrival, equal ones in the order they stand in."""
        return self.take(np.argsort(self.arrival_s, kind="stable"))


def merged(tables: Sequence[RequestTable]) -> RequestTable:
    """All rows of several tables by arrival; block ids of different tables are kept apart."""
    starts = np.cumsum([0, *(len(table) for table in tables)])
    columns: dict[str, Any] = {
        f.name: np.concatenate([getattr(table, f.name) for table in tables])
        for f in fields(RequestTable)
        if f.name not in ("follows", "prefix_blocks", "concurrency")
    }
    follows = [np.where(t.follows >= 0, t.follows + start, -1) for t, start in zip(tables, starts, strict=False)]
    blocks = _merged_blocks(tables)
    return RequestTable(**columns, follows=np.concatenate(follows), prefix_blocks=blocks).by_arrival()


def _merged_blocks(tables: Sequence[RequestTable]) -> PrefixBlocks | None:
    known = [table.prefix_blocks for table in tables if table.prefix_blocks is not None]
    if not known:
        return None
    if len({blocks.block_tok for blocks in known}) > 1:
        raise ValueError(f"prefix blocks of different sizes: {sorted({blocks.block_tok for blocks in known})}")
    ids, counts, above = [], [], 0
    for table in tables:
        blocks = table.prefix_blocks
        counts.append(np.diff(blocks.offsets) if blocks is not None else np.zeros(len(table), np.int64))
        if blocks is not None and len(blocks.ids):
            ids.append(blocks.ids + above)
            above += int(blocks.ids.max()) + 1
    offsets = np.concatenate(([0], np.cumsum(np.concatenate(counts)))).astype(np.int64)
    return PrefixBlocks(np.concatenate(ids), offsets, known[0].block_tok)
