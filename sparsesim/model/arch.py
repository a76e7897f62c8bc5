"""A model: embedding, layers of blocks, head; what it stores and which kernels a step of it launches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from pydantic import Field

from sparsesim.errors import InputError, Problem
from sparsesim.families import Frozen
from sparsesim.model import emit
from sparsesim.model.blocks import Block
from sparsesim.model.setting import Precision, Setting
from sparsesim.model.weights import State, Weights
from sparsesim.work import Array, Send, Task, dtype_bytes


@dataclass(frozen=True, slots=True)
class Chunk:
    """`count` prompt chunks of q_tok new tokens; kv_tok counts them and the prompt before them."""

    q_tok: Array
    kv_tok: Array
    count: Array = 1.0


@dataclass(frozen=True, slots=True)
class Batch:
    """What one step of one attention rank processes; numbers may be arrays over steps.

    `context`: mean tokens attended by a decoding sequence, its new one included. `sampled`: sequences that get a next
    token; by default the decoding ones.
    """

    decode: Array = 0.0
    context: Array = 1.0
    chunks: tuple[Chunk, ...] = ()
    sampled: Array | None = None

    @property
    def tokens(self) -> Array:
        """Tokens of the step."""
        return self.decode + sum((chunk.count * chunk.q_tok for chunk in self.chunks), 0.0)


class LayerGroup(Frozen):
    """`count` equal layers in a row."""

    count: int = Field(ge=1)
    blocks: tuple[Block, ...] = Field(min_length=1)


class Model(Frozen):
    """An architecture with its exact sizes."""

    name: str
    source: str = Field(description="where the sizes were read")
    d_model: int = Field(ge=1, description="width of the residual stream")
    vocab: int = Field(ge=1, description="rows of the embedding")
    layers: tuple[LayerGroup, ...] = Field(min_length=1)
    tied: bool = Field(False, description="the LM head is the embedding")
    max_context: int = Field(ge=1, description="tokens the model was made for")
    precision: Precision = Precision()
    final_norm: bool = Field(True, description="a norm before the LM head")
    norm_bias: bool = Field(False, description="the final norm has a bias")
    head_bias: bool = Field(False, description="the LM head has a bias")
    positions: int = Field(0, ge=0, description="rows of a learned position embedding; 0: none")
    mtp: tuple[Block, ...] = Field(
        (), description="blocks of one multi-token-prediction module; not run unless asked for"
    )
    mtp_layers: int = Field(0, ge=0, description="multi-token-prediction modules")
    assumed: tuple[str, ...] = Field((), description="what the configuration left to its class's defaults")

    @property
    def layer_count(self) -> int:
        """Layers."""
        return sum(group.count for group in self.layers)

    @property
    def expert_layers(self) -> int:
        """Layers with routed experts."""
        return sum(count for block, count in self.blocks if block.weights(self.d_model).experts)

    @cached_property
    def blocks(self) -> tuple[tuple[Block, int], ...]:
        """Each distinct block with the number of layers that have it, in order of appearance."""
        return _counted(group.blocks for group in self.layers for _ in range(group.count))

    # What it stores.

    def ends(self, tp: int = 1) -> Weights:
        """Embedding, position embedding, final norm and LM head of one of tp ranks; never quantised."""
        rows = -(-self.vocab // tp)
        tables = rows * self.d_model * (1 if self.tied else 2) + rows * self.head_bias
        norm = self.d_model * self.final_norm * (1 + self.norm_bias)
        return Weights(kept=tables + norm + self.positions * self.d_model)

    def stored(self) -> Weights:
        """All weights, multi-token prediction left out."""
        return sum((block.stored_in(self.d_model, n) for block, n in self.blocks), self.ends())

    def parameters(self) -> int:
        """All parameters, multi-token prediction left out."""
        return self.stored().total

    def active_parameters(self, embedding: bool = True) -> int:
        """Parameters one token passes through; some publish it without the input embedding."""
        table = 0 if embedding or self.tied else self.vocab * self.d_model
        return self.stored().active - table

    def mtp_parameters(self) -> int:
        """Of the multi-token-prediction modules: two norms, a 2d to d projection, their blocks and a final norm."""
        own = sum(block.parameters(self.d_model) for block in self.mtp)
        return self.mtp_layers * (own + 2 * self.d_model * self.d_model + 3 * self.d_model)

    def weight_bytes(self, precision: Precision | None = None) -> float:
        """Bytes of all weights, quantisation scales included."""
        of = precision or self.precision
        return _bytes(self.stored(), of) - self._head_saving(of)

    def _head_saving(self, precision: Precision, tp: int = 1) -> float:
        """Bytes that an engine saves which quantises the LM head's table too."""
        table = -(-self.vocab // tp) * self.d_model
        own = precision.weight_bytes_each(precision.head) if precision.head else dtype_bytes(precision.kept)
        return table * (dtype_bytes(precision.kept) - own)

    def stages(self, pp: int) -> tuple[tuple[tuple[Block, int], ...], ...]:
        """Distinct blocks of each pipeline stage with their numbers: layers in order, the first stages one longer.

        Raises:
            InputError: more stages than layers.

        """
        if pp > self.layer_count:
            raise InputError(Problem(f"pp {pp} is more than the {self.layer_count} layers", path="deployment.pp"))
        layers = [group.blocks for group in self.layers for _ in range(group.count)]
        short, longer = divmod(len(layers), pp)
        ends = [short * (i + 1) + min(i + 1, longer) for i in range(pp)]
        return tuple(_counted(layers[a:b]) for a, b in pairwise([0, *ends]))

    def device_weight_bytes(self, setting: Setting) -> float:
        """Bytes on the fullest device, split over tp, experts and their redundant slots over tp*dp ranks.

        The first pipeline stage has the embedding, the last the LM head (a tied table is on both).
        """
        inner = [self._stage_bytes(blocks, setting) for blocks in self.stages(setting.pp)]
        ends = self.ends(setting.tp)
        if setting.pp == 1:
            return inner[0] + _bytes(ends, setting.precision) - self._head_saving(setting.precision, setting.tp)
        table = -(-self.vocab // setting.tp) * self.d_model
        first = Weights(kept=table + self.positions * self.d_model)
        last = Weights(kept=ends.kept - (0 if self.tied else table) - self.positions * self.d_model)
        inner[0] += _bytes(first, setting.precision)
        inner[-1] += _bytes(last, setting.precision) - self._head_saving(setting.precision, setting.tp)
        return max(inner)

    def expert_bytes(self, setting: Setting) -> float:
        """Bytes of the routed experts alone, redundant slots included, on one of the setting's ranks."""
        held = (block.stored_in(self.d_model, n).experts * block.held_experts(setting) for block, n in self.blocks)
        experts = sum(math.ceil(number / setting.ranks) for number in held)
        return experts * setting.precision.weight_bytes_each(setting.precision.expert_weights)

    def _stage_bytes(self, blocks: tuple[tuple[Block, int], ...], setting: Setting) -> float:
        inner = Weights()
        for block, count in blocks:
            own = block.stored_in(self.d_model, count, setting.tp)
            held = math.ceil(own.experts * block.held_experts(setting) / setting.ranks)
            inner += replace(own, experts=held)
        return _bytes(inner, setting.precision)

    def kv_bytes_per_token(self, precision: Precision | None = None, tp: int = 1) -> float:
        """Cache bytes a token takes in all attention layers while no window is full, on one of tp ranks."""
        of = precision or self.precision
        return sum(n * block.kv_bytes_per_token(of, tp) for block, n in self.blocks)

    def kv_bytes(self, context: Array, precision: Precision | None = None, tp: int = 1) -> Array:
        """Cache bytes of a sequence of `context` tokens; windows cap it."""
        of = precision or self.precision
        return sum((size * _least(context, window) for window, size in self.kv_by_window(of, tp).items()), 0.0)

    def kv_by_window(self, precision: Precision | None = None, tp: int = 1) -> dict[float, float]:
        """Cache bytes per token of the layers of each window."""
        of = precision or self.precision
        sizes: dict[float, float] = {}
        for block, count in self.blocks:
            if size := count * block.kv_bytes_per_token(of, tp):
                sizes[block.kv_window] = sizes.get(block.kv_window, 0.0) + size
        return dict(sorted(sizes.items(), reverse=True))

    def state_elements(self, tp: int = 1) -> State:
        """Fixed-size state of a sequence."""
        return sum((block.state_elements(tp).times(n) for block, n in self.blocks), State())

    def state_bytes(self, precision: Precision | None = None, tp: int = 1) -> float:
        """Bytes of a sequence's fixed-size state on one of tp ranks."""
        of, state = precision or self.precision, self.state_elements(tp)
        return state.conv * dtype_bytes(of.stream) + state.recurrent * dtype_bytes(of.state)

    def contexts(self) -> tuple[float, ...]:
        """Attention windows whose fill decode time depends on, the unlimited one (inf) first."""
        probe = (block.decode_by_window(1.0, 1.0, Setting()) for block, _ in self.blocks)
        return tuple(sorted({window for tasks in probe for window in tasks if window > 0}, reverse=True))

    # Which kernels a step launches.

    def token_tasks(self, tokens: Array, setting: Setting) -> list[Task]:
        """Everything sized by the step's tokens: embedding, projections, norms, FFN, experts, collectives, pipeline."""
        tasks = [emit.pointwise("embedding", "embedding", tokens, self.d_model, setting)]
        tasks += emit.all_reduce("embedding.allreduce", tokens, self.d_model, setting)
        for block, layer_setting, count in self._placed(setting):
            tasks += _times(block.token_tasks(tokens, self.d_model, layer_setting), count)
        if setting.pp > 1:
            size = tokens * self.d_model * dtype_bytes(setting.precision.stream)
            nodes = setting.nodes(setting.ranks * setting.pp)
            tasks.append(Task("pipeline.send", Send(bytes=size, nodes=min(nodes, 2)), setting.pp - 1))
        return tasks

    def _placed(self, setting: Setting) -> Iterable[tuple[Block, Setting, int]]:
        """Distinct blocks with the setting of their layer, and how often each pair occurs."""
        if setting.sparsity is None:
            return ((block, setting, count) for block, count in self.blocks)
        pairs: dict[tuple[Block, Any], int] = {}
        layer = 0
        for group in self.layers:
            for _ in range(group.count):
                own = setting.sparsity.layer(layer, self.layer_count)
                for block in group.blocks:
                    pairs[block, own] = pairs.get((block, own), 0) + 1
                layer += 1
        return ((block, replace(setting, layer_sparsity=own), n) for (block, own), n in pairs.items())

    def expert_tasks(self, tokens: Array, setting: Setting) -> list[Task]:
        """Kernels of all layers' routed experts on one of the setting's ranks, for `tokens` of all of them."""
        return [
            task
            for block, own, count in self._placed(setting)
            for task in _times(block.expert_tasks(tokens, self.d_model, own), count)
        ]

    def decode_by_window(self, sequences: Array, kv_tok: Array, setting: Setting) -> dict[float, list[Task]]:
        """Tasks of one token for each decoding sequence, by the window their size depends on (0: none)."""
        merged: dict[float, list[Task]] = {}
        for block, count in self.blocks:
            for window, tasks in block.decode_by_window(sequences, kv_tok, setting).items():
                merged.setdefault(window, []).extend(_times(tasks, count))
        return merged

    def decode_tasks(self, sequences: Array, kv_tok: Array, setting: Setting) -> list[Task]:
        """Tasks of one token for each decoding sequence; kv_tok: mean tokens attended, the new one included."""
        return [task for tasks in self.decode_by_window(sequences, kv_tok, setting).values() for task in tasks]

    def chunk_tasks(self, sequences: Array, q_tok: Array, kv_tok: Array, setting: Setting) -> list[Task]:
        """Tasks of `sequences` prompt chunks of q_tok new tokens; kv_tok includes them."""
        return [
            task
            for block, count in self.blocks
            for task in _times(block.chunk_tasks(sequences, q_tok, kv_tok, setting), count)
        ]

    def head_tasks(self, sampled: Array, setting: Setting) -> list[Task]:
        """Final norm, LM head over the split vocabulary, logits gathered, sampling, for tokens that get a next one."""
        rows = -(-self.vocab // setting.tp)
        tasks = emit.add_norm("head.norm", sampled, self.d_model, setting) if self.final_norm else []
        density = setting.sparsity.head_density() if setting.sparsity else 1.0
        storage = setting.precision.head
        tasks += emit.linear("head.lm_head", sampled, self.d_model, rows, setting, density, kept=True, storage=storage)
        if setting.tp > 1:
            tasks += emit.all_gather("head.gather", sampled, rows * setting.tp, setting.tp, setting)
        return [*tasks, emit.pointwise("head.sample", "sample", sampled, self.vocab, setting)]

    def mtp_tasks(self, sequences: Array, kv_tok: Array, setting: Setting) -> list[Task]:
        """One draft by every multi-token-prediction module for each sequence, its projection and the shared head."""
        d, tasks = self.d_model, list[Task]()
        for _ in range(self.mtp_layers):
            tasks += emit.norm("mtp.embedding_norm", sequences, d, setting)
            tasks += emit.norm("mtp.hidden_norm", sequences, d, setting)
            tasks += emit.linear("mtp.projection", sequences, 2 * d, d, setting)
            for block in self.mtp:
                tasks += block.token_tasks(sequences, d, setting)
                by_window = block.decode_by_window(sequences, kv_tok, setting)
                tasks += [task for own in by_window.values() for task in own]
            tasks += self.head_tasks(sequences, setting)
        return tasks

    def tasks(self, batch: Batch, setting: Setting) -> list[Task]:
        """All kernels of a step."""
        sampled = batch.decode if batch.sampled is None else batch.sampled
        tasks = self.token_tasks(batch.tokens, setting)
        tasks += self.decode_tasks(batch.decode, batch.context, setting)
        for chunk in batch.chunks:
            tasks += self.chunk_tasks(chunk.count, chunk.q_tok, chunk.kv_tok, setting)
        return tasks + self.head_tasks(sampled, setting)


def _counted(layers: Iterable[tuple[Block, ...]]) -> tuple[tuple[Block, int], ...]:
    counts: dict[Block, int] = {}
    for blocks in layers:
        for block in blocks:
            counts[block] = counts.get(block, 0) + 1
    return tuple(counts.items())


def _times(tasks: list[Task], count: int) -> list[Task]:
    return [task.times(count) for task in tasks] if count != 1 else tasks


def _least(context: Array, window: float) -> Array:
    return context if math.isinf(window) else np.minimum(context, window)


def _bytes(weights: Weights, precision: Precision) -> float:
    return (
        weights.linear * precision.weight_bytes_each(precision.weights)
        + weights.experts * precision.weight_bytes_each(precision.expert_weights)
        + weights.kept * dtype_bytes(precision.kept)
    )
