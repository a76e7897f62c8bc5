"""Every kind of arrivals, lengths and workload has a sample here: a new one without a sample fails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparsesim.families import Member, kinds
from sparsesim.workload import RequestTable, Workload, generate
from sparsesim.workload.arrivals.base import Arrivals
from sparsesim.workload.lengths.base import Lengths
from sparsesim.workload.traces.base import TraceFormat

FIXED = {"kind": "fixed", "prompt": "100 tok", "output": "10 tok"}
POISSON = {"kind": "poisson", "rate": "12 /s"}
SHAREGPT = "sharegpt300_llama31_lengths.csv"
CLIENT = "servegen_language_m-small_chunk-39"
SIDE = {"mean": "50 tok"}
ARRIVALS: dict[str, dict[str, Any]] = {
    "concurrency": {"users": 8},
    "deterministic": {"rate": "12 /s"},
    "diurnal": {"rate": "12 /s", "swing": 0.5},
    "gamma": {"rate": "12 /s", "cv": 2},
    "mix": {
        "clients": [{"arrivals": POISSON, "lengths": FIXED}, {"arrivals": POISSON, "lengths": FIXED, "priority": 2}]
    },
    "poisson": {"rate": "12 /s"},
    "ramp": {"points": [{"at": "0 s", "rate": "1 /s"}, {"at": "60 s", "rate": "9 /s"}]},
    "servegen": {"clients": [{"trace": f"{CLIENT}-trace.csv", "dataset": f"{CLIENT}-dataset.json"}]},
    "sessions": {"rate": "3 /s", "turns": 3, "think": {"mean": "5 s"}},
    "trace": {"file": SHAREGPT},
    "weibull": {"rate": "12 /s", "cv": 2},
}
LENGTHS: dict[str, dict[str, Any]] = {
    "empirical": {"prompt": {"lengths": ["9 tok"]}, "output": {"lengths": ["1 tok", "2 tok"]}},
    "fixed": {"prompt": "100 tok", "output": "10 tok"},
    "geometric": {"prompt": SIDE, "output": SIDE},
    "lognormal": {"prompt": {**SIDE, "cv": 1}, "output": {**SIDE, "cv": 1}},
    "trace": {"file": SHAREGPT},
}
WORKLOADS: dict[str, dict[str, Any]] = {
    "serving": {"arrivals": POISSON, "lengths": FIXED, "requests": 50},
    "static": {"batch": 4, "context": "100 tok"},
    "training": {"sequence": "100 tok", "micro_batch": 4, "global_batch": 64},
}
WITH_LENGTHS = ("mix", "servegen", "trace")
EVERY = [
    *({"arrivals": {"kind": kind, **fields}, "requests": 50} for kind, fields in ARRIVALS.items()),
    *({"arrivals": POISSON, "lengths": {"kind": kind, **fields}, "requests": 50} for kind, fields in LENGTHS.items()),
    *({"kind": kind, **fields} for kind, fields in WORKLOADS.items()),
]
for _sample in EVERY[: len(ARRIVALS)]:
    if _sample["arrivals"]["kind"] not in WITH_LENGTHS:
        _sample["lengths"] = FIXED


@pytest.mark.parametrize(("family", "samples"), [(Arrivals, ARRIVALS), (Lengths, LENGTHS), (Workload, WORKLOADS)])
def test_every_kind_has_a_sample(family: type[Member], samples: dict[str, Any]) -> None:
    assert set(kinds(family)) == set(samples)


def test_the_formats_of_traces_are_these() -> None:
    assert set(kinds(TraceFormat)) == {"azure", "csv", "mooncake", "vllm"}


@pytest.mark.parametrize("sample", EVERY, ids=lambda s: s.get("kind") or f"{s['arrivals']['kind']}-{'lengths' in s}")
def test_every_kind_gives_a_sound_table_again_and_again(sample: dict[str, Any]) -> None:
    workload = Workload.resolve(sample)
    first, again = (generate(workload, seed=4) for _ in range(2))
    assert len(first) > 0
    sound(first)
    for column in ("arrival_s", "prompt_tok", "output_tok", "client", "think_s"):
        assert getattr(first, column).tobytes() == getattr(again, column).tobytes()
    assert Workload.resolve(workload.with_kind("json")) == workload


def sound(table: RequestTable) -> None:
    """What a simulation relies on."""
    assert np.all(np.diff(table.arrival_s) >= 0.0)
    assert table.arrival_s[0] >= 0.0
    assert table.prompt_tok.min() >= 1
    assert table.output_tok.min() >= 1
    assert np.all(table.follows < np.arange(len(table)))
    assert table.think_s.min() >= 0.0
    if table.prefix_blocks is not None:
        blocks = table.prefix_blocks
        assert blocks.offsets[-1] == len(blocks.ids)
        assert np.all(np.diff(blocks.offsets) * blocks.block_tok < table.prompt_tok + blocks.block_tok)
