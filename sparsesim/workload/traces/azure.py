"""Azure's public LLM inference traces: `TIMESTAMP,ContextTokens,GeneratedTokens`, UTC with up to 100 ns
digits.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from sparsesim.workload.requests import RequestTable
from sparsesim.workload.traces.base import Faults, TraceFormat, columns_of, head_of, rows_of

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class Azure(TraceFormat):
    """Splitwise's (2023) and DynamoLLM's (2024) traces."""

    @classmethod
    def recognises(cls, head: str) -> bool:
        """By the header."""
        return head.startswith(",".join(COLUMNS[:2]))

    def read(self, path: Path) -> RequestTable:
        """Arrivals count from the first timestamp."""
        header = head_of(path).splitlines()[0].split(",")
        place = columns_of(header, COLUMNS, path)
        when, prompt, output = (place[name] for name in COLUMNS)
        faults = Faults(path)
        rows = [
            (
                _instant(faults, line, cells[when]),
                faults.count(line, COLUMNS[1], cells[prompt]),
                faults.count(line, COLUMNS[2], cells[output]),
            )
            for line, cells in rows_of(path, faults, len(header))
        ]
        faults.raise_any()
        instants, prompts, outputs = np.array(rows).reshape(-1, 3).T
        ticks = instants - instants.min(initial=np.iinfo(np.int64).max)
        return RequestTable.of(ticks / TICKS_PER_S, prompts, outputs)


TICKS_PER_S = 10_000_000
"""The traces count in units of 100 ns."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _instant(faults: Faults, line: int, text: str) -> int:
    """Ticks of 100 ns since 1970; `datetime` itself keeps only microseconds."""
    whole, _, fraction = text.strip().removesuffix("+00:00").partition(".")
    try:
        moment = datetime.fromisoformat(whole).replace(tzinfo=UTC)
        ticks = int(fraction.ljust(7, "0")[:7])
    except ValueError:
        faults.add(line, f"TIMESTAMP is {text!r}, not a time such as '2023-11-16 18:15:46.6805900'")
        return 0
    since = moment - _EPOCH
    return (since.days * 86_400 + since.seconds) * TICKS_PER_S + ticks
