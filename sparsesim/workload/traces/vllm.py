"""The JSON that vLLM's serving benchmark saves with its details: lengths and start times of each request."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparsesim.errors import InputError, Problem
from sparsesim.workload.requests import RequestTable
from sparsesim.workload.traces.base import Faults, TraceFormat

_NEEDED = ("start_times", "input_lens", "output_lens")


class Vllm(TraceFormat):
    """`vllm bench serve --save-result --save-detailed`; a request that made no token (failed) is passed
    over.
    """

    @classmethod
    def recognises(cls, head: str) -> bool:
        """A JSON object that is not one of a line-by-line format."""
        return head.lstrip().startswith("{") and '"input_length"' not in head

    def read(self, path: Path) -> RequestTable:
        """Arrivals count from the first start time."""
        result = load_result(path)
        faults = Faults(path)
        starts, prompts, outputs = (result[name] for name in _NEEDED)
        kept = [i for i, output in enumerate(outputs) if output != 0]
        arrival_s = np.array([faults.seconds(1, f"start_times[{i}]", starts[i]) for i in kept])
        prompt_tok = [faults.count(1, f"input_lens[{i}]", prompts[i]) for i in kept]
        output_tok = [faults.count(1, f"output_lens[{i}]", outputs[i]) for i in kept]
        faults.raise_any()
        return RequestTable.of(arrival_s - arrival_s.min(initial=np.inf), prompt_tok, output_tok)


def load_result(path: Path, needed: Sequence[str] = _NEEDED) -> dict[str, Any]:
    """The benchmark's JSON object, the per-request lists that are needed present and equally long.

    Raises:
        InputError: not JSON, or lists are missing or differ in length.

    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise InputError(Problem(f"is not JSON: {error}", place=f"{path}:{line}")) from None
    lists = {name: result.get(name) for name in needed} if isinstance(result, dict) else dict.fromkeys(needed)
    missing = [name for name, value in lists.items() if not isinstance(value, list)]
    if missing:
        hint = "save it with --save-result --save-detailed"
        raise InputError([Problem(f"has no list {name!r}", place=str(path), hint=hint) for name in missing])
    sizes = {name: len(value) for name, value in lists.items() if value is not None}
    if len(set(sizes.values())) > 1:
        raise InputError(Problem(f"its lists differ in length: {sizes}", place=str(path)))
    found: dict[str, Any] = result
    return found
