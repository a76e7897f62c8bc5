"""Kernels bound by memory: pointwise passes as engines fuse them, and copies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from sparsesim.calibrate.measure.bench import Bench
from sparsesim.calibrate.measure.plan import Candidate, UnsupportedError, spread_indices
from sparsesim.calibrate.measure.runners import eager
from sparsesim.kernels.common.requirements import require_gpu
from sparsesim.work import Copy, Pointwise

HEAD_DIM = 128
"""Of the rotary embedding: element j turns with element j + 64."""
QUANTIZED_GROUP = 128
"""Elements that share a scale (DeepSeek-V3's activations)."""
TOP_K = 8
CONV_TAPS = 4
VOCABULARY = 131072
_ELEMENTS = 2048
_CHECKED_ROWS = 24

Pass = Callable[[Pointwise, Bench], Candidate]


def pointwise(op: Pointwise, bench: Bench) -> Sequence[Candidate]:
    """The pass of the op's kind."""
    if op.kind in eager.EAGER:
        return eager.candidates(op, bench)
    if op.dtype != "bf16":
        raise UnsupportedError(f"pointwise: dtype {op.dtype!r}; measured is bf16")
    if op.kind not in PASSES:
        raise UnsupportedError(f"pointwise: kind {op.kind!r}; measured are {', '.join((*PASSES, *eager.EAGER))}")
    return [PASSES[op.kind](op, bench)]


def copy(op: Copy, bench: Bench) -> Sequence[Candidate]:
    """The driver's asynchronous copy from device to device, through Tensor.copy_."""
    size = int(op.bytes) // 2
    sets = [(bench.inputs.take(size), bench.outputs.take(size)) for _ in range(bench.sets(float(op.hbm_bytes())))]
    calls = [partial(b.copy_, a) for a, b in sets]
    some = spread_indices(size, 4096)
    return [Candidate("memcpy", calls, lambda out: (out[some], sets[0][0][some]), bound=0.0)]


def _tensors(op: Pointwise, bench: Bench, inputs: int) -> list[tuple[Any, ...]]:
    """Per buffer set: `inputs` inputs and one poisoned output, all [tokens, width]."""
    tokens, width = int(op.tokens), int(op.width)
    sets = []
    for _ in range(bench.sets(float(op.hbm_bytes()))):
        out = bench.outputs.take(tokens, width)
        sets.append((*(bench.inputs.take(tokens, width) for _ in range(inputs)), out))
    sets[0][-1].fill_(float("nan"))
    return sets


def _rows(tensor: Any) -> Any:
    return tensor[spread_indices(tensor.shape[0], _CHECKED_ROWS)]


def _elementwise(inputs: int, reference: Callable[..., Any]) -> Pass:
    def build(op: Pointwise, bench: Bench) -> Candidate:
        kernels = _kernels(op.kind)
        sets = _tensors(op, bench, inputs)
        if op.kind == "cast":
            sets = [(a, torch.empty_like(a, dtype=torch.float32)) for a, _ in sets]
        size = sets[0][0].numel()

        def call(tensors: tuple[Any, ...]) -> Any:
            grid = (-(-size // _ELEMENTS),)
            kernels.elementwise_kernel[grid](tensors[0], tensors[-2], tensors[-1], size, op.kind, _ELEMENTS)
            return tensors[-1]

        def check(out: Any) -> tuple[Any, Any]:
            return _rows(out), reference(*(_rows(t).float() for t in sets[0][:-1]))

        return Candidate("triton", [partial(call, s) for s in sets], check)

    return build


def _norm(add: bool) -> Pass:
    def build(op: Pointwise, bench: Bench) -> Candidate:
        kernels = _kernels(op.kind)
        sets = [
            (*s[:-1], torch.empty_like(s[-1]) if add else s[-1], s[-1]) for s in _tensors(op, bench, 2 if add else 1)
        ]
        gain = bench.inputs.take(int(op.width))
        block = 1 << (int(op.width) - 1).bit_length()
        warps = max(4, min(16, block // 512))

        def call(s: tuple[Any, ...]) -> Any:
            kernels.norm_kernel[(s[0].shape[0],)](
                s[0], s[-3], gain, s[-2], s[-1], s[0].shape[1], 1e-6, add, block, num_warps=warps
            )
            return s[-1]

        def check(out: Any) -> tuple[Any, Any]:
            total = sum(_rows(t).float() for t in sets[0][:-2])
            scale = torch.rsqrt(total.square().mean(-1, keepdim=True) + 1e-6)
            return _rows(out), total * scale * gain.float()

        return Candidate("triton", [partial(call, s) for s in sets], check)

    return build


def _rope(op: Pointwise, bench: Bench) -> Candidate:
    kernels = _kernels(op.kind)
    half = HEAD_DIM // 2
    if int(op.width) % HEAD_DIM:
        raise UnsupportedError(f"pointwise rope: width {op.width:g} is not a multiple of {HEAD_DIM}")
    sets = _tensors(op, bench, 1)
    angle = torch.arange(int(op.tokens), device=bench.device)[:, None] * 1e4 ** (
        -torch.arange(half, device=bench.device) / half
    )
    cosine, sine = angle.cos().contiguous(), angle.sin().contiguous()
    pairs = int(op.width) // 2

    def call(x: Any, out: Any) -> Any:
        grid = (x.shape[0], -(-pairs // _ELEMENTS))
        kernels.rope_kernel[grid](x, cosine, sine, out, pairs, half, min(_ELEMENTS, 1 << (pairs - 1).bit_length()))
        return out

    def check(out: Any) -> tuple[Any, Any]:
        heads = _rows(sets[0][0]).float().unflatten(-1, (-1, 2, half))
        c, s = _rows(cosine)[:, None], _rows(sine)[:, None]
        a, b = heads[:, :, 0], heads[:, :, 1]
        return _rows(out), torch.stack([a * c - b * s, b * c + a * s], 2).flatten(1)

    return Candidate("triton", [partial(call, x, o) for x, o in sets], check)


def _quantize(op: Pointwise, bench: Bench) -> Candidate:
    kernels = _kernels(op.kind)
    if int(op.width) % QUANTIZED_GROUP:
        raise UnsupportedError(f"pointwise quantize: width {op.width:g} is not a multiple of {QUANTIZED_GROUP}")
    sets = [
        (
            x,
            torch.empty_like(x, dtype=torch.float8_e4m3fn),
            x.new_empty(x.numel() // QUANTIZED_GROUP, dtype=torch.float32),
        )
        for x, _ in _tensors(op, bench, 1)
    ]
    groups = sets[0][2].numel()
    per_program = _ELEMENTS // QUANTIZED_GROUP

    def call(x: Any, out: Any, scales: Any) -> Any:
        kernels.quantize_kernel[(-(-groups // per_program),)](x, out, scales, groups, per_program, QUANTIZED_GROUP)
        return out

    def check(out: Any) -> tuple[Any, Any]:
        scale = sets[0][2].view(out.shape[0], -1, 1)
        back = _rows(out).float().unflatten(1, (-1, QUANTIZED_GROUP)) * _rows(scale)
        return back.flatten(1), _rows(sets[0][0]).float()

    return Candidate("triton", [partial(call, *s) for s in sets], check, bound=4e-2)


def _softmax(op: Pointwise, bench: Bench) -> Candidate:
    sets = _tensors(op, bench, 1)
    calls = [partial(torch.softmax, x, -1, out=o) for x, o in sets]
    return Candidate("torch", calls, lambda out: (_rows(out), torch.softmax(_rows(sets[0][0]).float(), -1)))


def _embedding(op: Pointwise, bench: Bench) -> Candidate:
    tokens, width = int(op.tokens), int(op.width)
    vocabulary = VOCABULARY if bench.device == "cuda" else tokens
    table = bench.inputs.take(vocabulary, width)
    sets = [
        (torch.randint(vocabulary, (tokens,), device=bench.device), bench.outputs.take(tokens, width))
        for _ in range(bench.sets(float(op.hbm_bytes())))
    ]
    calls = [partial(torch.index_select, table, 0, i, out=o) for i, o in sets]
    return Candidate("torch", calls, lambda out: (_rows(out), table[_rows(sets[0][0])]), bound=0.0)


def _sample(op: Pointwise, bench: Bench) -> Candidate:
    sets = _inputs(op, bench)

    def check(out: Any) -> tuple[Any, Any]:
        return _rows(sets[0].gather(1, out[:, None])), _rows(sets[0].max(1, keepdim=True).values)

    return Candidate("torch", [partial(torch.argmax, x, -1) for x in sets], check, bound=0.0)


def _topk(op: Pointwise, bench: Bench) -> Candidate:
    kernels = _kernels(op.kind)
    sets = _inputs(op, bench)
    tokens, width = sets[0].shape
    block = 1 << (width - 1).bit_length()
    if width < TOP_K or block > _ELEMENTS:
        raise UnsupportedError(f"pointwise topk: width {width}, measured are {TOP_K} to {_ELEMENTS}")

    def call(x: Any) -> Any:
        values = torch.empty(tokens, TOP_K, device=x.device)
        indices = torch.empty(tokens, TOP_K, device=x.device, dtype=torch.int32)
        kernels.topk_kernel[(tokens,)](x, values, indices, width, TOP_K, block, num_warps=max(1, block // 256))
        return values

    def check(out: Any) -> tuple[Any, Any]:
        return _rows(out), _rows(sets[0]).float().topk(TOP_K, -1).values

    return Candidate("triton", [partial(call, x) for x in sets], check)


def _conv(op: Pointwise, bench: Bench) -> Candidate:
    kernels = _kernels(op.kind)
    sets = _tensors(op, bench, 1)
    tokens, width = sets[0][0].shape
    weight = bench.inputs.take(CONV_TAPS, width)
    rows, channels = 16, 128

    def call(x: Any, out: Any) -> Any:
        grid = (-(-tokens // rows), -(-width // channels))
        kernels.conv_kernel[grid](x, weight, out, tokens, width, rows, channels, CONV_TAPS)
        return out

    def check(out: Any) -> tuple[Any, Any]:
        last = min(tokens, 64)
        padded = torch.nn.functional.pad(sets[0][0].float(), (0, 0, CONV_TAPS - 1, 0))[-last - CONV_TAPS + 1 :]
        total = sum(padded[j : j + last] * weight[j].float() for j in range(CONV_TAPS))
        return out[-last:], torch.nn.functional.silu(total)

    return Candidate("triton", [partial(call, x, o) for x, o in sets], check)


def _read(op: Pointwise, bench: Bench) -> Candidate:
    kernels = _kernels(op.kind)
    block = 4 * _ELEMENTS
    size = int(op.tokens * op.width)
    blocks = -(-size // block)
    sets = [(x, x.new_empty(blocks, dtype=torch.float32)) for x in _inputs(op, bench)]

    def call(x: Any, sums: Any) -> Any:
        kernels.read_kernel[(blocks,)](x, sums, size, block, num_warps=8)
        return sums

    def check(out: Any) -> tuple[Any, Any]:
        some = spread_indices(blocks, _CHECKED_ROWS)
        flat = sets[0][0].view(-1)
        return out[some], torch.stack([flat[i * block : (i + 1) * block].float().sum() for i in some])

    return Candidate("triton", [partial(call, *s) for s in sets], check)


def _write(op: Pointwise, bench: Bench) -> Candidate:
    sets = _tensors(op, bench, 0)
    calls = [partial(o.fill_, 1.5) for (o,) in sets]
    return Candidate("torch", calls, lambda out: (_rows(out), torch.full_like(_rows(out), 1.5)), bound=0.0)


def _inputs(op: Pointwise, bench: Bench) -> list[Any]:
    count = bench.sets(float(op.hbm_bytes()))
    return [bench.inputs.take(int(op.tokens), int(op.width)) for _ in range(count)]


def _kernels(kind: str) -> Any:
    """Import the Triton kernels, which need a GPU or Triton's interpreter."""
    require_gpu(f"pointwise {kind}")
    from sparsesim.calibrate.measure.runners import pointwise_kernels

    return pointwise_kernels


PASSES: dict[str, Pass] = {
    "norm": _norm(False),
    "add_norm": _norm(True),
    "residual": _elementwise(2, lambda a, b: a + b),
    "silu_mul": _elementwise(2, lambda a, b: torch.nn.functional.silu(a) * b),
    "relu_mul": _elementwise(2, lambda a, b: torch.relu(a) * b),
    "activation": _elementwise(1, torch.nn.functional.silu),
    "cast": _elementwise(1, lambda a: a),
    "rope": _rope,
    "quantize": _quantize,
    "embedding": _embedding,
    "softmax": _softmax,
    "sample": _sample,
    "topk": _topk,
    "conv": _conv,
    "read": _read,
    "write": _write,
}
"""How each kind of `sparsesim.work.memory.PASSES` that an engine fuses is measured."""
