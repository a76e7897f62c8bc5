"""Which kind of mixer each layer has: from a list, a pattern, a period, or the family's rule."""

from __future__ import annotations

from typing import Any

from sparsesim.errors import closest
from sparsesim.model.hf.family import Family
from sparsesim.model.hf.fields import Fields

_KINDS = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "indexed_attention": "indexed",
    "linear_attention": "linear",
    "mamba": "linear",
    "recurrent": "linear",
    "conv": "linear",
    "hybrid": "hybrid",
    "moe": "moe",
    "mlp": "mlp",
}
_LETTERS = {"M": "linear", "*": "full", "-": "mlp", "E": "moe"}


_LAYOUT = (
    "num_hidden_layers",
    "num_layers",
    "n_layer",
    "sliding_window",
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "full_attention_interval",
    "attn_layer_indices",
    "full_attn_idxs",
    "hybrid_layer_ids",
    "attn_layer_period",
    "attn_layer_offset",
    "attn_type_list",
    "block_types",
    "no_rope_layer_interval",
    "attention_chunk_size",
)
"""Fields that say or size the layers' kinds: which of them are read is up to the first that decides."""


def layer_kinds(fields: Fields, family: Family) -> list[str]:
    """The kind of each layer; the first of these decides: list, pattern, indices, period, interval, family rule."""
    kinds = _layer_kinds(fields, family)
    fields.settled(*_LAYOUT)
    if not {"full", "sliding", "chunked", "indexed", "hybrid"} & set(kinds):
        fields.settled("num_attention_heads", "num_key_value_heads", "attention_bias")
    if "linear" not in kinds:
        fields.settled("conv_bias", "conv_L_cache")
    return kinds


def _layer_kinds(fields: Fields, family: Family) -> list[str]:
    for name in ("layers_block_type", "layer_types"):
        words = fields.listed(name)
        if words is not None:
            return _checked(fields, name, [_word(fields, name, word) for word in words])
    pattern = fields.text("hybrid_override_pattern")
    if pattern:
        return [_letter(fields, letter) for letter in pattern]
    count = fields.integer("num_hidden_layers", "num_layers", "n_layer")
    for rule in (_attention_types, _kimi, _indices, _period, _interval, _window_period, _cycle):
        kinds = rule(fields, count)
        if kinds is not None:
            return kinds
    return _by_family(fields, family, count)


def mtp_kinds(fields: Fields) -> list[str]:
    """The kinds of a multi-token-prediction module's layers, where the file gives them."""
    words = fields.listed("mtp_layers_block_type") or []
    pattern = fields.text("mtp_hybrid_override_pattern")
    named = [_word(fields, "mtp_layers_block_type", word) for word in words]
    return named or [_letter(fields, letter, "mtp_hybrid_override_pattern") for letter in pattern]


def _word(fields: Fields, name: str, word: Any) -> str:
    if word not in _KINDS:
        fields.fault(name, f"unknown layer type {word!r}", closest(str(word), _KINDS))
        return "full"
    return _KINDS[word]


def _letter(fields: Fields, letter: str, name: str = "hybrid_override_pattern") -> str:
    if letter not in _LETTERS:
        fields.fault(name, f"unknown letter {letter!r}", "one of: M (Mamba), * (attention), - (MLP), E (MoE)")
        return "full"
    return _LETTERS[letter]


def _checked(fields: Fields, name: str, kinds: list[str]) -> list[str]:
    count = fields.values.get("num_hidden_layers")
    if count is not None and count != len(kinds):
        fields.fault(name, f"has {len(kinds)} entries for num_hidden_layers {count}", "one for each layer")
    return kinds


def _attention_types(fields: Fields, count: int) -> list[str] | None:
    """minimax: attn_type_list, 1 softmax and 0 lightning."""
    types = fields.listed("attn_type_list", count)
    return None if types is None else ["full" if kind == 1 else "linear" for kind in types]


def _kimi(fields: Fields, count: int) -> list[str] | None:
    """Kimi-Linear: lists of layers counted from 1."""
    nested = fields.mapping("linear_attn_config")
    if nested is None:
        return None
    full = nested.get("full_attn_layers") or []
    linear = nested.get("kda_layers") or []
    if sorted([*full, *linear]) != list(range(1, count + 1)):
        fields.fault(
            "linear_attn_config", f"full_attn_layers and kda_layers do not name each of layers 1..{count} once"
        )
    return ["full" if index + 1 in full else "linear" for index in range(count)]


def _indices(fields: Fields, count: int) -> list[str] | None:
    """bamba, lfm2: the layers that are attention."""
    indices = fields.listed("attn_layer_indices")
    if indices is None:
        indices = fields.listed("full_attn_idxs")
    return None if indices is None else ["full" if i in indices else "linear" for i in range(count)]


def _period(fields: Fields, count: int) -> list[str] | None:
    """jamba: attention where i % period == offset."""
    period = fields.maybe_integer("attn_layer_period", least=1)
    if period is None:
        return None
    offset = fields.integer("attn_layer_offset", least=0)
    return ["full" if i % period == offset else "linear" for i in range(count)]


def _interval(fields: Fields, count: int) -> list[str] | None:
    """qwen3_next: every n-th layer is full attention."""
    interval = fields.maybe_integer("full_attention_interval", least=1)
    return None if interval is None else ["full" if (i + 1) % interval == 0 else "linear" for i in range(count)]


def _window_period(fields: Fields, count: int) -> list[str] | None:
    """gemma3: every n-th layer is full attention, the others slide."""
    period = fields.maybe_integer("sliding_window_pattern", "_sliding_window_pattern", least=1)
    return None if period is None else ["full" if (i + 1) % period == 0 else "sliding" for i in range(count)]


def _cycle(fields: Fields, count: int) -> list[str] | None:
    """recurrent_gemma: a cycle of block types, its attention local."""
    types = fields.listed("block_types")
    if not types:
        return None
    kinds = [_word(fields, "block_types", word) for word in types]
    local = ["sliding" if kind == "full" else kind for kind in kinds]
    return [local[i % len(local)] for i in range(count)]


def _by_family(fields: Fields, family: Family, count: int) -> list[str]:
    interval = fields.maybe_integer("no_rope_layer_interval", least=1) or 4
    windowed = fields.has("sliding_window")
    if family.layers == "upper_sliding":
        sliding = windowed and fields.flag("use_sliding_window", False)
        first = fields.integer("max_window_layers", least=0) if sliding else count
        return ["sliding" if i >= first else "full" for i in range(count)]
    if family.layers == "fourth_full":
        return ["full" if i and i % 4 == 0 else "linear" for i in range(count)]
    if family.layers == "zamba2":
        return _zamba2(count)
    cycles = {
        "full": ["full"],
        "sliding": ["sliding" if windowed else "full"],
        "even_sliding": ["sliding", "full"],
        "nope_full": [*["chunked"] * (interval - 1), "full"],
        "linear": ["linear"],
        "quarter_full": ["linear", "linear", "linear", "full"],
        "odd_linear": ["full", "linear"],
        "hybrid": ["hybrid"],
    }
    cycle = cycles[family.layers]
    return [cycle[i % len(cycle)] for i in range(count)]


def _zamba2(count: int) -> list[str]:
    """The class's default: a shared block in every sixth layer, closer at the end, cut at the number of layers."""
    kinds = ["linear", *["linear", "linear", "linear", "linear", "linear", "hybrid"] * 7]
    kinds += [*["linear"] * 4, "hybrid", *["linear"] * 3, "hybrid", "linear", "linear"]
    return kinds[:count]
