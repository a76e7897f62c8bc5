"""A request while it is in the system, and the closed set of ways in which it can end."""

from __future__ import annotations

from enum import IntEnum


class Outcome(IntEnum):
    """How a request ended; every request ends in exactly one of these."""

    unfinished = 0  # the run ended before the request did
    finished = 1
    rejected_too_long = 2  # prompt and output exceed the model's context
    rejected_too_large = 3  # needs more KV blocks or state slots than a whole replica has
    rejected_full = 4  # turned away by admission control
    timed_out = 5  # gave up waiting for its first admission
    failed = 6  # its replica failed and no other can ever take it


class Job:
    """One request in the system.

    Attributes:
        row: its row in the request table.
        prompt, output: tokens.
        priority: lower goes first.
        arrival_s: when it came, which orders equal priorities.
        generated: output tokens it has (brought up to date when it leaves the batch).
        target: tokens to compute before the next one can be sampled: the prompt, and what was generated before a
            preemption.
        computed: tokens of the target whose KV is held.
        blocks: KV blocks held; while decoding they follow from the context instead.
        weight: KV groups in which it still takes new blocks.
        residue: of the iterations, modulo the block size, in which it takes a new block while decoding.
        offset: context attended in iteration s is s + offset while decoding.
        finish_step: the replica's iteration count at which it is done; -1 while not decoding.
        order: of joining the batch, for ties of the finishing heap.
        hashes: ids of the blocks of its prompt, () without prefix caching.
        held: how many of them it holds as shared blocks of the prefix cache.

    """

    __slots__ = (
        "arrival_s", "blocks", "computed", "finish_step", "generated", "hashes", "held", "offset",
        "order", "output", "preemptions", "priority", "prompt", "residue", "row", "target", "weight",
    )  # fmt: skip

    def __init__(self, row: int, prompt: int, output: int, priority: int, arrival_s: float) -> None:
        self.row = row
        self.prompt = prompt
        self.output = output
        self.priority = priority
        self.arrival_s = arrival_s
        self.target = prompt
        self.generated = 0
        self.computed = 0
        self.blocks = 0
        self.weight = self.offset = self.residue = self.order = 0
        self.finish_step = -1
        self.preemptions = 0
        self.held: tuple[int, ...] = ()
        self.hashes: tuple[int, ...] = ()

    def restart(self) -> None:
        """Nothing is computed any more; the prompt and what was generated are known."""
        self.target = self.prompt + self.generated
        self.computed = self.blocks = 0
        self.finish_step = -1
        self.held = ()

    @property
    def rank(self) -> tuple[int, float, int]:
        """The order in which requests are served: priority, then arrival."""
        return (self.priority, self.arrival_s, self.row)
