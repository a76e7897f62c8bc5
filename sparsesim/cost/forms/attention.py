"""Attention kernels.

Prefill (causal blocks of 128 tokens; query block i of a chunk of q new among kv tokens sees nb_i key blocks):

    nq = ceil(q/128);  nb_i = min(ceil((kv - q + min(128(i+1), q))/128), ceil(w/128) + 1)
    nblk = sum nb_i;  m = max nb_i
    t_blk = 4 * 128 * 128 * (D + D0) * SM / (eff P)
    T = B Hq (nq u0 + nblk t_blk) / SM;   chain = c (u0 + m t_blk)
    t = t0 + pnorm(p; T, chain) + bb * bytes / bw + u_b B Hkv / SM

Decode: t = t0 + t_chain kv/(kv + h) + pnorm(p; bytes / B, U t_unit / SM) with one unit per sequence and KV head while
G <= 32 query heads share it, else one per query head, the cache read as often; so also for more than one new token a
sequence, whose kernel does not pack query heads. The saturating term is the chain of blocks a unit walks until the
cache is long enough to be split. MLA decode adds the FLOP as a third term.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from sparsesim.cost.forms.base import (
    Floats,
    Form,
    Parameter,
    Parameters,
    Timing,
    bytes_per_s,
    one_or_each,
    pnorm,
    share,
)
from sparsesim.hardware.device.gpu import Chip
from sparsesim.work import Array, AttentionDecode, AttentionPrefill, MlaDecode, MlaPrefill, dtype_bytes

BLOCK = 128.0
PACKED_GROUP = 32.0
"""Query heads that one decode unit serves at once (facts: kernels change by a menu of G)."""

_KNEE = Parameter("p", "1", 1.0, 16.0, 4.0, "sharpness of the knee")
_START = Parameter("t0", "s", 0.3e-6, 30e-6, 4e-6, "launch and drain")


def causal_blocks(q_tok: Array, kv_tok: Array, window: Array) -> tuple[Floats, Floats, Floats]:
    """Query blocks, key blocks in all, and the longest row of key blocks, in closed form.

    Rows grow by one block until the window's m = ceil(w/128) + 1 caps them.
    """
    q, kv, w = (np.asarray(a, float) for a in np.broadcast_arrays(q_tok, kv_tok, window))
    rows = np.ceil(q / BLOCK)
    past = kv - q
    first = np.ceil((past + np.minimum(BLOCK, q)) / BLOCK)
    last = np.ceil(kv / BLOCK)
    cap = np.where(np.isinf(w), np.inf, np.ceil(np.where(np.isinf(w), 0, w) / BLOCK) + 1)
    grown = np.clip(np.minimum(cap, last) - first + 1, 0, rows)
    head = grown * first + grown * (grown - 1) / 2
    tail = (rows - grown) * np.minimum(cap, last)
    total = np.where(first >= cap, rows * np.where(np.isinf(cap), 0, cap), head + tail)
    return rows, total, np.minimum(cap, last)


class AttentionPrefillForm(Form[AttentionPrefill]):
    """Time of `AttentionPrefill`."""

    op: ClassVar[str] = "attention_prefill"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        _START,
        Parameter("eff", "1", 0.2, 1.0, 0.65, "share of the datasheet's FLOP/s inside a block"),
        Parameter("d0", "1", 0.0, 256.0, 40.0, "softmax, as extra width of a head"),
        Parameter("u0", "s", 0.05e-6, 20e-6, 1.5e-6, "a query block's own cost"),
        Parameter("c", "1", 0.2, 4.0, 1.0, "the longest chain of blocks"),
        _KNEE,
        Parameter("bb", "1", 0.0, 4.0, 1.0, "bytes of q, k, v and output not overlapped"),
        Parameter("u_b", "s", 1e-9, 10e-6, 0.2e-6, "a sequence's KV head's own cost"),
    )

    def kernel_class(self, op: AttentionPrefill) -> str | npt.NDArray[np.str_]:
        """One set per dtype and kernel: whole prompts have a faster one than chunks behind a cache, or windows."""
        return one_or_each(np.char.add(f"attention_prefill.{op.dtype}.", _kernel(op.q_tok, op.kv_tok, op.window)))

    def timing(self, op: AttentionPrefill, p: Parameters, chip: Chip) -> Timing:
        """Padded causal blocks spread over the SMs, or the longest chain."""
        rows, blocks, longest = causal_blocks(op.q_tok, op.kv_tok, op.window)
        width = op.products / AttentionPrefill.products * np.asarray(op.head_dim, float)
        return _prefill(rows, blocks, longest, op, width, np.asarray(op.hbm_bytes()), op.kv_heads, p, chip)


class AttentionFlashForm(AttentionPrefillForm):
    """Time of `AttentionFlash`: the prefill form with its kernel's own constants."""

    op: ClassVar[str] = "attention_flash"

    def kernel_class(self, op: AttentionPrefill) -> str:
        """A sibling of the fastest kernels' classes."""
        return f"attention_prefill.{op.dtype}.flash"


class AttentionBackwardForm(AttentionPrefillForm):
    """Time of `AttentionBackward`: blocks of five products instead of two."""

    op: ClassVar[str] = "attention_backward"

    def kernel_class(self, op: AttentionPrefill) -> str:
        """A sibling of the forward's classes."""
        return f"attention_prefill.{op.dtype}.backward"


class MlaPrefillForm(Form[MlaPrefill]):
    """Time of `MlaPrefill`: the prefill form with a head as wide as the mean of key and value."""

    op: ClassVar[str] = "mla_prefill"
    parameters: ClassVar[tuple[Parameter, ...]] = AttentionPrefillForm.parameters

    def kernel_class(self, op: MlaPrefill) -> str | npt.NDArray[np.str_]:
        """One set per dtype and kernel, as for ordinary attention."""
        return one_or_each(np.char.add(f"mla_prefill.{op.dtype}.", _kernel(op.q_tok, op.kv_tok, np.inf)))

    def timing(self, op: MlaPrefill, p: Parameters, chip: Chip) -> Timing:
        """As prefill attention over expanded heads."""
        rows, blocks, longest = causal_blocks(op.q_tok, op.kv_tok, np.inf)
        width = (op.nope_dim + op.rope_dim + op.v_dim) / 2.0
        return _prefill(rows, blocks, longest, op, width, np.asarray(op.hbm_bytes()), op.heads, p, chip)


def _kernel(q_tok: Array, kv_tok: Array, window: Array) -> npt.NDArray[np.str_]:
    """`whole` where a prompt attends to itself alone without a window that bites, else `partial`."""
    whole = (np.asarray(kv_tok) <= np.asarray(q_tok)) & (np.asarray(window) >= np.asarray(kv_tok))
    return np.where(whole, "whole", "partial")


def _prefill(
    rows: Floats,
    blocks: Floats,
    longest: Floats,
    op: AttentionPrefill | MlaPrefill,
    width: Array,
    hbm: Array,
    kv_heads: Array,
    p: Parameters,
    chip: Chip,
) -> Timing:
    per_block = 4.0 * BLOCK * BLOCK * (width + p["d0"]) * chip.sms / (p["eff"] * chip.peak(op.compute_dtype()))
    filled = np.minimum(1.0, np.asarray(op.q_tok, float) / BLOCK)
    spread = op.batch * op.heads * (rows * p["u0"] + blocks * per_block * filled) / chip.sms
    chain = p["c"] * (p["u0"] + longest * per_block * filled)
    memory = p["bb"] * hbm / chip.bandwidth_bytes_per_s
    fixed = p["t0"] + p["u_b"] * op.batch * kv_heads / chip.sms
    work = pnorm(p["p"], spread, chain)
    executed = 4.0 * BLOCK * BLOCK * width * blocks * op.batch * op.heads
    return Timing(fixed + work + memory, work, work, memory, 0.0, fixed, executed, hbm, 0.0)


class AttentionDecodeForm(Form[AttentionDecode]):
    """Time of `AttentionDecode`."""

    op: ClassVar[str] = "attention_decode"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        _START,
        Parameter("bandwidth", "1", 0.3, 1.0, 0.85, "share of the datasheet's bytes/s"),
        _KNEE,
        Parameter("t_unit", "s", 0.1e-6, 60e-6, 5e-6, "one unit of work, one CTA's"),
        Parameter("t_chain", "s", 0.01e-6, 60e-6, 5e-6, "the chain of blocks of an unsplit cache"),
        Parameter("h", "tok", 8.0, 4096.0, 250.0, "context at half of that chain"),
    )

    def kernel_class(self, op: AttentionDecode) -> str | npt.NDArray[np.str_]:
        """One set per dtype and per packing of query heads."""
        group = np.asarray(op.heads, float) / op.kv_heads
        packing = np.where(group <= 1, "one", np.where(group <= PACKED_GROUP, "packed", "unpacked"))
        packing = np.where(np.asarray(op.q_tok) > 1, "several", packing)
        return one_or_each(np.char.add(f"attention_decode.{op.dtype}.", packing))

    def timing(self, op: AttentionDecode, p: Parameters, chip: Chip) -> Timing:
        """Reading the cache, or the number of units."""
        packed = (np.asarray(op.heads) / op.kv_heads <= PACKED_GROUP) & (np.asarray(op.q_tok) <= 1)
        readers = np.where(packed, op.kv_heads, op.heads)
        reach = np.minimum(op.kv_tok, op.window + op.q_tok - 1)
        cache = 2.0 * op.batch * readers * reach * op.head_dim * dtype_bytes(op.dtype)
        hbm = cache + 4.0 * op.batch * op.heads * op.head_dim * op.q_tok
        units = op.batch * readers * p["t_unit"] / chip.sms
        executed = 4.0 * op.batch * np.maximum(op.heads, op.kv_heads * 16.0) * op.head_dim * reach * op.q_tok
        return _decode(hbm, units, None, executed, reach, p, chip)


class MlaDecodeForm(Form[MlaDecode]):
    """Time of `MlaDecode`."""

    op: ClassVar[str] = "mla_decode"
    parameters: ClassVar[tuple[Parameter, ...]] = (
        *AttentionDecodeForm.parameters,
        Parameter("peak", "1", 0.05, 1.0, 0.5, "share of the datasheet's FLOP/s"),
        Parameter("beta", "1", 0.0, 1.0, 0.5, "how whole the waves of units are"),
        Parameter("partial", "1", 0.0, 20.0, 2.0, "passes over fp32 outputs in combining the splits"),
    )

    def kernel_class(self, op: MlaDecode) -> str:
        """One set per dtype."""
        return f"mla_decode.{op.dtype}"

    def timing(self, op: MlaDecode, p: Parameters, chip: Chip) -> Timing:
        """Reading the latent cache, the products of all heads with it, or the number of units."""
        blocks = np.ceil(np.asarray(op.heads) * op.q_tok / 64.0)
        executed = 2.0 * op.batch * blocks * 64.0 * (2.0 * op.kv_rank + op.rope_dim) * op.kv_tok
        waves = np.maximum(op.batch * blocks / chip.sms, 1.0)
        whole = 1.0 - p["beta"] + p["beta"] * np.ceil(waves) / waves
        compute = executed * whole / (p["peak"] * chip.peak(op.compute_dtype()))
        partial = p["partial"] * 4.0 * op.batch * op.heads * op.q_tok * op.kv_rank / chip.bandwidth_bytes_per_s
        units = op.batch * blocks * p["t_unit"] / chip.sms + partial
        return _decode(np.asarray(op.hbm_bytes()), units, compute, executed, op.kv_tok, p, chip)


def _decode(
    hbm: Floats, units: Array, compute: Array | None, executed: Array, reach: Array, p: Parameters, chip: Chip
) -> Timing:
    memory = hbm / bytes_per_s(chip, p["bandwidth"])
    flops = np.zeros_like(np.asarray(units, float)) if compute is None else compute
    busy = pnorm(p["p"], memory, units, flops)
    scaled = busy * (share(p["p"], units, memory, flops) + share(p["p"], flops, memory, units))
    fixed = p["t0"] + p["t_chain"] * np.asarray(reach, float) / (np.asarray(reach, float) + p["h"])
    return Timing(fixed + busy, scaled, flops, memory, 0.0, fixed + np.asarray(units), executed, hbm, 0.0, hbm)
