"""Upper bounds of a pipeline of array chips (NorthPole) from peak operations, on-chip memory and pipeline depth.

A chip holds whole layers; the LM head is split over `head_chips`. With w the weight bytes of the fullest chip, o the
operations of a token there, s chips in the pipeline and n sequences in flight (one token each, decoding):

    per chip   t_chip >= max(o / peak, w / bandwidth)      every weight is read from on-chip memory for every token
    pipeline   f <= 1 / t_chip;   latency >= s t_chip;   f <= n / latency
    memory     n context kv_bytes <= chip memory - w        gives the longest context of n sequences

Nothing is fitted: a published figure above a bound means the bound is wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sparsesim.errors import DoesNotFitError, InputError, Problem, closest
from sparsesim.hardware.device.neuromorphic import ArrayChip, Neuromorphic
from sparsesim.model.arch import Batch, Model
from sparsesim.model.blocks import Block
from sparsesim.model.setting import Precision, Setting
from sparsesim.work import dtype_bytes


@dataclass(frozen=True, slots=True)
class Bounds:
    """What no run of the model on the system can exceed (throughput, power) or go below (latency).

    `bound` says which of compute, memory and depth (sequences in flight) limits throughput.
    """

    chips: int
    layers_per_chip: int
    weight_bytes: float
    chip_s: float
    latency_s: float
    tok_per_s: float
    power_w: float
    max_context_tok: float
    bound: str


def pipeline_bounds(
    model: Model, device: Neuromorphic, dtype: str, *, kv_dtype: str, head_chips: int, context_tok: float
) -> Bounds:
    """Bounds of decoding on a device with `array`.

    Args:
        model: any; its layers are dealt evenly to the chips that do not hold the LM head.
        device: `chips` of it form one pipeline with `sequences` in flight.
        dtype: of weights and operations, one that the chip has a peak for.
        kv_dtype: of the key-value cache.
        head_chips: chips that share the LM head.
        context_tok: tokens attended.

    Raises:
        InputError: not an array device, an unknown dtype, or no chip left for the layers.
        DoesNotFitError: the weights of a chip exceed its memory.

    """
    array, layer_chips = _checked(device, dtype, head_chips)
    each = math.ceil(model.layer_count / layer_chips)
    depth = math.ceil(model.layer_count / each) + head_chips
    setting = Setting(precision=Precision(weights=dtype, activations="bf16", kv=kv_dtype))
    largest = max((block for group in model.layers for block in [group.blocks]), key=lambda b: _weights(b, model))
    layer_bytes = each * _weights(largest, model) * dtype_bytes(dtype)
    head_bytes = model.vocab * model.d_model * dtype_bytes(dtype) / head_chips
    stored = max(layer_bytes, head_bytes)
    if stored > array.memory.value:
        raise DoesNotFitError(
            f"{model.name}: a chip would hold {stored / 1e6:.0f} MB of {dtype} weights ({each} layers or "
            f"1/{head_chips} of the LM head), {device.name} has {array.memory.value / 1e6:.0f} MB: "
            "use more chips or fewer bits"
        )
    work = _operations(model, setting, each, head_chips, context_tok)
    compute_s, memory_s = work / array.peak[dtype].value, stored / array.bandwidth.value
    chip_s = max(compute_s, memory_s)
    rates = {"compute": 1.0 / compute_s, "memory": 1.0 / memory_s, "depth": device.sequences.value / (depth * chip_s)}
    kv_bytes = each * model.kv_bytes_per_token(setting.precision) / model.layer_count
    free = array.memory.value - layer_bytes
    return Bounds(
        chips=device.chips.value,
        layers_per_chip=each,
        weight_bytes=stored,
        chip_s=chip_s,
        latency_s=depth * chip_s,
        tok_per_s=min(rates.values()),
        power_w=device.chips.value * (device.power or device.static).value,
        max_context_tok=free / (device.sequences.value * kv_bytes) if kv_bytes else math.inf,
        bound=min(rates, key=lambda name: rates[name]),
    )


def in_flight_rate(sequences: int, latency_s: float) -> float:
    """Throughput of a pipeline that keeps `sequences` in flight, each a token per `latency_s` (Little's law)."""
    return sequences / latency_s


def _checked(device: Neuromorphic, dtype: str, head_chips: int) -> tuple[ArrayChip, int]:
    if device.array is None:
        raise InputError(Problem(f"{device.name} is event-driven", hint="use neuromorphic_estimate"))
    peaks: Mapping[str, object] = device.array.peak
    if dtype not in peaks:
        raise InputError(Problem(f"{device.name} does not compute in {dtype!r}", "dtype", hint=closest(dtype, peaks)))
    left = device.chips.value - head_chips
    if left < 1 or head_chips < 1:
        hint = f"1 to {device.chips.value - 1} of the {device.chips.value} chips"
        raise InputError(
            Problem(f"{head_chips} chips for the LM head leave {left} for layers", "head_chips", hint=hint)
        )
    return device.array, left


def _weights(blocks: tuple[Block, ...], model: Model) -> int:
    return sum(block.stored(model.d_model).total for block in blocks)


def _operations(model: Model, setting: Setting, each: int, head_chips: int, context_tok: float) -> float:
    """Operations (two per multiply-add) of a token on the busiest chip."""
    batch = Batch(decode=1.0, context=context_tok, sampled=1.0)
    head = sum(float(t.op.flop()) * t.count for t in model.head_tasks(1.0, setting))
    layers = sum(float(t.op.flop()) * t.count for t in model.tasks(batch, setting)) - head
    return max(layers * each / model.layer_count, head / head_chips)
