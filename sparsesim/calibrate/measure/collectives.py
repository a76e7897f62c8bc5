"""Messages by NCCL (gloo on a host), with buffers rotated and the expected result of every rank.

`bytes` counts as in nccl-tests: all_reduce the buffer, all_gather the output, reduce_scatter the input, all_to_all each
rank's send buffer, send the buffer. A skew s sends s / gpus of every rank's buffer to rank 0 and the rest evenly to the
others: on two GPUs the busier direction then carries s times the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
import torch.distributed as dist

from sparsesim.calibrate.measure.plan import UnsupportedError
from sparsesim.work import Collective, Op, Send

_CALLS = 16
"""Calls a graph holds, so that its launch is a small part."""
_LARGE_BYTES = 64e6
_L2_BYTES = 150e6


@dataclass(frozen=True, slots=True)
class Message:
    """One op on this rank: its calls in order, and (output, expected output) of one more call on fresh data."""

    calls: Sequence[Callable[[], Any]]
    check: Callable[[], tuple[Any, Any]]
    backend: str


class Clock(Protocol):
    """What a message needs to know of the machine."""

    device: str


@dataclass(frozen=True, slots=True)
class _Place:
    rank: int
    world: int
    elements: int
    device: str

    def data(self, rank: int) -> Any:
        """The numbers that `rank` holds at first; every rank can make them."""
        generator = torch.Generator(device=self.device).manual_seed(rank)
        return torch.randn(self.elements, generator=generator, device=self.device, dtype=torch.bfloat16)

    def everyone(self) -> Iterator[Any]:
        """One after another: eight buffers of a GiB would not all fit beside the messages."""
        return (self.data(rank) for rank in range(self.world))


def message(op: Op, rank: int, world: int, clock: Clock) -> Message:
    """Buffers and calls of an op.

    Raises:
        UnsupportedError: naming what cannot be measured here.

    """
    if not isinstance(op, Collective | Send) or op.op not in _KINDS:
        raise UnsupportedError(f"no runner for op {op.op!r} over ranks; there are: {', '.join(_KINDS)}")
    if int(op.gpus) != world or int(op.nodes) != 1:
        raise UnsupportedError(f"{op.op}: {op.gpus:g} GPUs on {op.nodes:g} nodes; here are {world} on one")
    if getattr(op, "nvls", False):
        raise UnsupportedError(f"{op.op}: nvls rows need NCCL_NVLS_ENABLE=1, which this suite never sets")
    place = _Place(rank, world, int(op.bytes) // 2, clock.device)
    one = partial(_KINDS[op.op], op, place)
    sets = [one(place.data(rank), False) for _ in range(_rotations(float(op.bytes)))]
    calls = [call for call, _ in sets]
    count = 2 if op.bytes > _LARGE_BYTES else _CALLS
    repeated = [calls[i % len(calls)] for i in range(max(count, len(calls)))]

    def check() -> tuple[Any, Any]:
        call, result = one(place.data(rank), True)
        call()
        return result()

    return Message(repeated, check, "nccl" if clock.device == "cuda" else "gloo")


def _rotations(size: float) -> int:
    return max(1, min(8, round(_L2_BYTES / size)))


_Made = tuple[Callable[[], Any], Callable[[], tuple[Any, Any]]]
"""A call, and what gives its (output, expected output) once it was made."""


def _all_reduce(_: Op, place: _Place, x: Any, exact: bool) -> _Made:
    # A sum in place would double with every call until it overflows; the mean stays put and moves the same bytes.
    reduce = dist.ReduceOp.SUM if exact or place.device == "cpu" else dist.ReduceOp.AVG
    return partial(dist.all_reduce, x, op=reduce), lambda: (x, _sum(place.everyone()))


def _all_gather(_: Op, place: _Place, x: Any, _exact: bool) -> _Made:
    shard = x.chunk(place.world)[0].clone()
    out = torch.full_like(x, float("nan"))
    call = partial(dist.all_gather_into_tensor, out, shard)
    return call, lambda: (out, torch.cat([other.chunk(place.world)[0] for other in place.everyone()]))


def _reduce_scatter(_: Op, place: _Place, x: Any, _exact: bool) -> _Made:
    out = torch.full_like(x.chunk(place.world)[0], float("nan"))
    call = partial(dist.reduce_scatter_tensor, out, x)
    return call, lambda: (out, _sum(place.everyone()).chunk(place.world)[place.rank])


def _all_to_all(op: Any, place: _Place, x: Any, _exact: bool) -> _Made:
    splits = shares(place.elements, place.world, float(op.skew))
    mine = splits[place.rank]
    out = x.new_full((mine * place.world,), float("nan"))
    call = partial(dist.all_to_all_single, out, x, [mine] * place.world, splits)
    return call, lambda: (out, torch.cat([other.split(splits)[place.rank] for other in place.everyone()]))


def _send(_: Op, place: _Place, x: Any, _exact: bool) -> _Made:
    if place.rank == 0:
        return partial(dist.send, x, 1), lambda: (x[:0], x[:0])
    out = torch.full_like(x, float("nan"))
    if place.rank == 1:
        return partial(dist.recv, out, 0), lambda: (out, place.data(0))
    return lambda: None, lambda: (x[:0], x[:0])


def shares(elements: int, world: int, skew: float) -> list[int]:
    """Elements that each rank gets of a send buffer: skew / world of it for rank 0, the rest evenly."""
    if not 1.0 <= skew <= world:
        raise UnsupportedError(f"all_to_all: skew is {skew:g}, must be between 1 and the {world} ranks")
    first = round(elements * skew / world)
    rest = elements - first
    even = [rest // (world - 1)] * (world - 1)
    even[-1] += rest - sum(even)
    return [first, *even]


def _sum(parts: Iterable[Any]) -> Any:
    wide = (part.float() for part in parts)
    total = next(wide)
    for part in wide:
        total += part
    return total


_KINDS: dict[str, Callable[..., _Made]] = {
    "all_reduce": _all_reduce,
    "all_gather": _all_gather,
    "reduce_scatter": _reduce_scatter,
    "all_to_all": _all_to_all,
    "send": _send,
}
