"""ServeGen's client windows: each client's rate, burstiness and lengths as measured over the day.

A client is two files. `trace` has no header: window start (s), rate (1/s), cv of the gaps, law (Gamma,
Weibull or empty), shape, scale. Windows last 600 s in the published data; here each lasts until the next
begins. `dataset` is JSON: {"window start": {"input_tokens": "{length: probability}", "output_tokens":
...}}. Source: ServeGen (Xiang et al., 2025), github.com/alibaba/ServeGen.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from pydantic import Field

from sparsesim.errors import InputError, Problem
from sparsesim.families import Frozen
from sparsesim.workload.arrivals.base import Arrivals, Arrived, Limit, need_limit
from sparsesim.workload.client_windows import ClientWindows, LengthWindows, read_lengths, read_windows
from sparsesim.workload.quantities import Instant
from sparsesim.workload.requests import Floats, Ints, RequestTable, merged
from sparsesim.workload.streams import Streams


class Client(Frozen):
    """The two files of one client."""

    trace: str
    dataset: str


class Servegen(Arrivals):
    """The clients' requests from `start` in the recording on, every rate multiplied by `scale`."""

    finite: ClassVar[bool] = True
    clients: tuple[Client, ...] = Field(min_length=1)
    start: Instant = 0.0
    scale: Annotated[float, Field(gt=0)] = 1.0

    def draw(self, limit: Limit, streams: Streams, folder: Path | None) -> Arrived:
        """Each client's gaps and lengths, merged by arrival.

        Raises:
            InputError: a file is missing or malformed, or the windows end before the limit is reached.

        """
        need_limit(limit)
        tables = []
        for number, client in enumerate(self.clients):
            own, windows = streams.child(number), read_windows(client.trace, folder)
            arrival_s = self._arrivals(windows, limit, own.rng("arrivals"))
            lengths = read_lengths(client.dataset, folder)
            prompt_tok, output_tok = _lengths(lengths, arrival_s + self.start, own)
            tables.append(RequestTable.of(arrival_s, prompt_tok, output_tok).labelled(number, 0))
        table = merged(tables)
        if limit.requests is not None and len(table) < limit.requests and math.isinf(limit.duration_s):
            text = f"the clients' windows hold {len(table)} requests, fewer than the {limit.requests} asked for"
            raise InputError(Problem(text, path="workload.requests"))
        table = table.take(range(len(table))[: limit.requests])
        return Arrived(table.arrival_s, recorded=table)

    def _arrivals(self, windows: ClientWindows, limit: Limit, rng: np.random.Generator) -> Floats:
        """Gaps in operational time: what is left of a gap at a window's end goes on in the next."""
        found: list[Floats] = []
        count, left = 0, -1.0
        for begin, end, rate, law, shape in windows.after(self.start):
            if begin >= limit.duration_s or (limit.requests is not None and count >= limit.requests):
                break
            expected = (end - begin) * rate * self.scale
            if expected == 0.0:
                continue
            left = float(_gaps(rng, law, shape, 1)[0]) if left < 0.0 else left
            reached = _reached(rng, law, shape, left, expected)
            left = float(reached[-1]) - expected
            found.append(begin + reached[:-1] / (rate * self.scale))
            count += len(reached) - 1
        arrivals = np.concatenate(found) if found else np.zeros(0)
        return arrivals[arrivals < limit.duration_s]

    def problems(self, folder: Path | None) -> list[Problem]:
        """Whatever is wrong with the files."""
        found: list[Problem] = []
        for client in self.clients:
            for read, file in ((read_windows, client.trace), (read_lengths, client.dataset)):
                try:
                    read(file, folder)
                except InputError as error:
                    found += error.problems
        return found


def _reached(rng: np.random.Generator, law: str, shape: float, first: float, expected: float) -> Floats:
    """Sums of gaps beginning with `first`, up to and with the first that is at or beyond `expected`."""
    sums = np.array([first])
    while sums[-1] < expected:
        more = max(16, int(1.2 * (expected - sums[-1])))
        sums = np.concatenate((sums, sums[-1] + np.cumsum(_gaps(rng, law, shape, more))))
    return sums[: int(np.searchsorted(sums, expected)) + 1]


def _gaps(rng: np.random.Generator, law: str, shape: float, count: int) -> Floats:
    """Gaps of mean 1."""
    if law == "Gamma":
        return rng.gamma(shape, 1.0 / shape, count)
    return rng.weibull(shape, count) / math.gamma(1.0 + 1.0 / shape)


def _lengths(windows: LengthWindows, instants: Floats, streams: Streams) -> tuple[Ints, Ints]:
    """Lengths from the window in which each request comes; before the first window, from the first."""
    prompt, output = streams.rng("prompt").random(len(instants)), streams.rng("output").random(len(instants))
    window = np.maximum(np.searchsorted(windows.start_s, instants, side="right") - 1, 0)
    prompt_tok, output_tok = np.zeros(len(instants), np.int64), np.zeros(len(instants), np.int64)
    for number in np.unique(window):
        inside = window == number
        prompt_tok[inside] = windows.prompt[number].invert(prompt[inside])
        output_tok[inside] = windows.output[number].invert(output[inside])
    return prompt_tok, output_tok
