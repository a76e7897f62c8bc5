"""Arrivals and lengths put together."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from sparsesim.workload.arrivals.base import Arrivals, Arrived, Limit
from sparsesim.workload.lengths.base import Drawn, Lengths
from sparsesim.workload.lengths.trace import Trace
from sparsesim.workload.requests import Ints, PrefixBlocks, RequestTable
from sparsesim.workload.streams import Streams

SESSION_BLOCK_TOK = 16
"""Tokens of a prefix block of a session's history: the block of vLLM's KV cache."""


def complete(
    arrivals: Arrivals, lengths: Lengths | None, limit: Limit, streams: Streams, folder: Path | None
) -> RequestTable:
    """The requests that come by `arrivals` with `lengths`, or with those they were recorded with where None.

    Raises:
        InputError: from the kinds; or no lengths are given and none are recorded.

    """
    arrived = arrivals.draw(limit, streams, folder)
    drawn = (lengths or Trace()).draw(arrived, streams, folder)
    if arrived.history:
        drawn = with_history(arrived, drawn)
    recorded = arrived.recorded
    return RequestTable.of(
        arrived.arrival_s,
        drawn.prompt_tok,
        drawn.output_tok,
        client=arrived.client if recorded is None else recorded.client,
        priority=None if recorded is None else recorded.priority,
        follows=arrived.follows if recorded is None else recorded.follows,
        think_s=arrived.think_s if recorded is None else recorded.think_s,
        prefix_blocks=drawn.prefix_blocks,
        concurrency=arrived.concurrency,
    )


def with_history(arrived: Arrived, drawn: Drawn) -> Drawn:
    """Each turn's prompt preceded by the prompts and answers of its session, which later turns can reuse as
    a prefix.
    """
    follows, client = arrived.follows, arrived.client
    if follows is None or client is None:
        raise TypeError("arrivals with history must give sessions: follows and client")
    prompt_tok = drawn.prompt_tok.copy()
    for row in np.flatnonzero(follows >= 0):
        before = follows[row]
        prompt_tok[row] += prompt_tok[before] + drawn.output_tok[before]
    return Drawn(prompt_tok, drawn.output_tok, session_blocks(prompt_tok, client))


def session_blocks(prompt_tok: Ints, session: Ints) -> PrefixBlocks:
    """Full blocks of each prompt: block k of session s is the same in all its turns and in no other
    session.
    """
    counts = prompt_tok // SESSION_BLOCK_TOK
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
    inside = np.arange(offsets[-1], dtype=np.int64) - np.repeat(offsets[:-1], counts)
    return PrefixBlocks(np.repeat(session << 32, counts) + inside, offsets, SESSION_BLOCK_TOK)
