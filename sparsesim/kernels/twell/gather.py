"""Up+down of a sparse gated FFN by gathering weight rows: one program a token, two rows of d an entry.

Three sources of the entries, one loop over them:

- ``rows``: ELL rows or CSR, read as they are;
- ``twell``: TwELL words, compacted by the program itself into its scratch row;
- ``dense``: a dense gate ``[M, F]``, compacted likewise ("compaction in the consumer"), exact for any nnz
  when the scratch holds F entries.

Many tokens of TwELL words take up and down one after the other instead (``two_pass.py``).

Rows are taken from the last to the first: the kernels before wrote the last rows last, and those still lie in L2.
A row whose tile or scratch overflowed is put on the worklist and its output is left to the dense path
(``overflow.py``). The order of the list is that of arrival, but each row's result does not depend on its
place.

Bytes per entry: one row of Wu and one of Wd, ``2 d`` elements (8 KB at d 2048 in bf16), out of L2 and L1.
"""
# Arguments of Triton kernels are traced, not typed.
# mypy: disable-error-code="no-untyped-def,untyped-decorator,misc"

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from sparsesim.kernels.common.requirements import KernelRequirementError, require_gpu, require_tensor
from sparsesim.kernels.twell.compact import compact_dense, compact_twell
from sparsesim.kernels.twell.format import Csr, Rows, TwellFormat
from sparsesim.kernels.twell.launch import GatherLaunch
from sparsesim.kernels.twell.packed import Packed
from sparsesim.kernels.twell.two_pass import up_then_down
from sparsesim.kernels.twell.weights import FfnWeights


@dataclass(frozen=True)
class Worklist:
    """Rows left to the dense path: ``count`` int32 ``[1]`` on the device and ``rows`` int32 ``[M]``."""

    count: Any
    rows: Any

    @classmethod
    def empty(cls, rows: int, device: Any) -> Worklist:
        """An empty list with room for every row: exact on any input."""
        return cls(
            torch.zeros(1, dtype=torch.int32, device=device),
            torch.empty(rows, dtype=torch.int32, device=device),
        )


@triton.jit
def up_down_token(
    x,
    up,
    down,
    out,
    entries,
    total,
    D: tl.constexpr,
    D_P2: tl.constexpr,
    STEP: tl.constexpr,
    ADD: tl.constexpr,
):
    """``out (+)= sum over entries of g (x . Wu_j) Wd_j`` for one token, ``STEP`` entries at a time.

    What is used once leaves the L2 first: it belongs to the weight rows.
    """
    column = tl.arange(0, D_P2)
    inside = column < D
    token = tl.load(x + column, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    acc = tl.zeros((D_P2,), dtype=tl.float32)
    if ADD:
        acc += tl.load(out + column, mask=inside, other=0.0, eviction_policy="evict_first").to(tl.float32)
    lane = tl.arange(0, STEP)
    for begin in range(0, total, STEP):
        held = begin + lane < total
        word = tl.load(entries + begin + lane, mask=held, other=0)
        value = (word & -65536).to(tl.float32, bitcast=True)
        offset = (word & 0xFFFF).to(tl.int64)[:, None] * D + column[None, :]
        mask = held[:, None] & inside[None, :]
        up_rows = tl.load(up + offset, mask=mask, other=0.0)
        down_rows = tl.load(down + offset, mask=mask, other=0.0)
        hidden = value * tl.sum(up_rows.to(tl.float32) * token[None, :], axis=1)
        acc += tl.sum(hidden[:, None] * down_rows.to(tl.float32), axis=0)
    tl.store(out + column, acc.to(out.dtype.element_ty), mask=inside, eviction_policy="evict_first")


@triton.jit
def up_down_kernel(
    x,
    up,
    down,
    out,
    source,
    limits,
    scratch,
    list_count,
    list_rows,
    capacity,
    D: tl.constexpr,
    D_P2: tl.constexpr,
    F: tl.constexpr,
    SOURCE: tl.constexpr,
    WORDS: tl.constexpr,
    TILES: tl.constexpr,
    TILES_P2: tl.constexpr,
    STEP: tl.constexpr,
    ADD: tl.constexpr,
):
    """One program a token. ``limits``: counts (ELL) or row starts (CSR); unused by the other sources."""
    row = (tl.num_programs(0) - 1 - tl.program_id(0)).to(tl.int64)
    entries = scratch + row * capacity
    fits = True
    if SOURCE == "twell":
        total, fits = compact_twell(source + row * TILES * WORDS, entries, WORDS, TILES, TILES_P2, capacity)
        tl.debug_barrier()
    elif SOURCE == "dense":
        total, fits = compact_dense(source + row * F, entries, F, 1024, capacity)
        tl.debug_barrier()
    elif SOURCE == "csr":
        begin = tl.load(limits + row)
        total = tl.load(limits + row + 1) - begin
        entries = source + begin
    else:
        total = tl.load(limits + row)
        fits = total <= capacity
        entries = source + row * capacity
    if fits:
        up_down_token(x + row * D, up, down, out + row * D, entries, total, D, D_P2, STEP, ADD)
    else:
        tl.store(list_rows + tl.atomic_add(list_count, 1), row.to(tl.int32))


def up_down(
    x: Any,
    source: Any,
    weights: FfnWeights,
    work: Worklist,
    form: TwellFormat | None = None,
    capacity: int = 1024,
    launch: GatherLaunch | None = None,
    out: Any = None,
    accumulate: bool = False,
) -> Any:
    """``sum_j g_tj (x_t . Wu_j) Wd_j`` for every row that fits, ``[M, d]``; the others go to ``work``.

    ``source``: ``Packed`` words of ``form``, a dense gate ``[M, F]``, ``Rows`` or ``Csr``. ``capacity``: entries of a
    scratch row, for the first two. Rows on the worklist are left as they were.
    """
    require_gpu("twell up_down")
    require_tensor("twell up_down", "x", x, (None, weights.width), (weights.up.dtype,))
    form, launch = form or TwellFormat(), launch or GatherLaunch()
    kind, tensor, limits, room = _source(source, x, weights, form, capacity)
    rows, width = x.shape
    needs_scratch = kind in ("twell", "dense")
    tiles = tensor.shape[1] // form.words if kind == "twell" else 1
    scratch = torch.empty((rows, room) if needs_scratch else (1, 1), dtype=torch.int32, device=x.device)
    out = torch.empty_like(x) if out is None else out
    if isinstance(source, Packed) and launch.two_passes(rows, source.hot):
        lists = (scratch, work.count, work.rows)
        up_then_down(x, source.words, weights, form, launch, lists, out, accumulate)
        return out
    up_down_kernel[(rows,)](
        x,
        weights.up,
        weights.down,
        out,
        tensor,
        limits,
        scratch,
        work.count,
        work.rows,
        room,
        D=width,
        D_P2=triton.next_power_of_2(width),
        F=weights.neurons,
        SOURCE=kind,
        WORDS=form.words,
        TILES=tiles,
        TILES_P2=triton.next_power_of_2(tiles),
        STEP=launch.step,
        ADD=accumulate,
        num_warps=launch.warps,
        num_stages=launch.stages,
    )
    return out


def _source(source: Any, x: Any, weights: FfnWeights, form: TwellFormat, capacity: int) -> tuple[str, Any, Any, int]:
    """``(kind, tensor, limits, entries a row can hold)`` of a source, its shape checked."""
    rows = x.shape[0]
    if isinstance(source, Rows):
        return "rows", source.entries, source.counts, source.capacity
    if isinstance(source, Csr):
        return "csr", source.entries, source.starts, weights.neurons
    if isinstance(source, Packed):
        words = (rows, form.row_words(weights.neurons - source.hot))
        require_tensor("twell up_down", "words", source.words, words, (torch.int32,))
        return "twell", source.words, source.words, capacity
    if source.shape != (rows, weights.neurons) or not source.is_contiguous():
        raise KernelRequirementError(
            f"twell up_down: the gate has shape {list(source.shape)}, must be contiguous [{rows}, {weights.neurons}]"
        )
    return "dense", source, source, capacity
