"""Plain CSV with a header: `arrival_s,input_tokens,output_tokens`, and `client`, `priority` where wanted."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sparsesim.workload.requests import RequestTable
from sparsesim.workload.traces.base import Faults, TraceFormat, columns_of, head_of, rows_of

COLUMNS = ("arrival_s", "input_tokens", "output_tokens")
OPTIONAL = ("client", "priority")


class Csv(TraceFormat):
    """One line per request; clients and priorities are whole numbers."""

    @classmethod
    def recognises(cls, head: str) -> bool:
        """By the header."""
        return set(COLUMNS) <= {name.strip() for name in head.partition("\n")[0].split(",")}

    def read(self, path: Path) -> RequestTable:
        """Arrivals as recorded."""
        header = (head_of(path).splitlines() or [""])[0].split(",")
        place = columns_of(header, COLUMNS, path)
        whole = [name for name in (*COLUMNS[1:], *OPTIONAL) if name in place]
        faults = Faults(path)
        rows = [
            (
                faults.seconds(line, "arrival_s", cells[place["arrival_s"]]),
                *(faults.count(line, n, cells[place[n]], least=0 if n in OPTIONAL else 1) for n in whole),
            )
            for line, cells in rows_of(path, faults, len(header))
        ]
        faults.raise_any()
        table = np.array(rows, dtype=np.float64).reshape(-1, 1 + len(whole))
        columns = {name: table[:, 1 + i].astype(np.int64) for i, name in enumerate(whole)}
        others = {name: columns[name] for name in OPTIONAL if name in columns}
        return RequestTable.of(table[:, 0], columns["input_tokens"], columns["output_tokens"], **others)
