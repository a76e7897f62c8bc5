"""Mooncake's JSON lines: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` of 512-token prefix
blocks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from sparsesim.workload.requests import PrefixBlocks, RequestTable
from sparsesim.workload.traces.base import Faults, TraceFormat

_NEEDED = ("timestamp", "input_length", "output_length")


class Mooncake(TraceFormat):
    """One JSON object per line; without `hash_ids` a request shares no prefix."""

    block_tok: Annotated[int, Field(ge=1)] = 512

    @classmethod
    def recognises(cls, head: str) -> bool:
        """By the first line's keys."""
        return head.startswith("{") and '"input_length"' in head.partition("\n")[0]

    def read(self, path: Path) -> RequestTable:
        """Arrivals as recorded, in seconds."""
        faults = Faults(path)
        with path.open(encoding="utf-8-sig", errors="replace") as file:
            rows = [self._row(faults, line, text) for line, text in enumerate(file, start=1) if text.strip()]
        faults.raise_any()
        arrival_s = [row[0] for row in rows]
        counts = [len(row[3]) for row in rows]
        blocks = PrefixBlocks(
            np.array([block for row in rows for block in row[3]], dtype=np.int64),
            np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
            self.block_tok,
        )
        lengths = ([row[1] for row in rows], [row[2] for row in rows])
        return RequestTable.of(arrival_s, *lengths, prefix_blocks=blocks if any(counts) else None)

    def _row(self, faults: Faults, line: int, text: str) -> tuple[float, int, int, list[int]]:
        row = _object(faults, line, text)
        if row is None:
            return 0.0, 0, 0, []
        blocks = row.get("hash_ids", [])
        prompt_tok = faults.count(line, "input_length", row["input_length"])
        if not isinstance(blocks, list) or not all(type(block) is int for block in blocks):
            faults.add(line, "hash_ids is not a list of whole numbers")
            blocks = []
        elif len(blocks) > -(-prompt_tok // self.block_tok):
            faults.add(line, f"{len(blocks)} hash_ids of {self.block_tok} tokens for input_length {prompt_tok}")
        arrival_s = faults.seconds(line, "timestamp", row["timestamp"], scale=1e-3)
        return arrival_s, prompt_tok, faults.count(line, "output_length", row["output_length"]), blocks


def _object(faults: Faults, line: int, text: str) -> dict[str, Any] | None:
    try:
        row = json.loads(text)
    except ValueError as error:
        faults.add(line, f"is not JSON: {error}")
        return None
    if not isinstance(row, dict):
        faults.add(line, "is not a JSON object")
        return None
    missing = [name for name in _NEEDED if name not in row]
    if missing:
        faults.add(line, f"has no {', '.join(missing)}")
        return None
    return row
