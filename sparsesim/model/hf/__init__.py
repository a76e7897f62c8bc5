"""Models from Hugging Face `config.json` files.

`families.yaml` says per model_type what its code fixes and which defaults its class fills in (read from transformers
5.23.0). Every field must be read or known to change nothing: what is not understood is an error naming the field, and
every class default that was used stands in `Model.assumed`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sparsesim.errors import InputError, Problem, closest
from sparsesim.model.arch import Model
from sparsesim.model.blocks import Block
from sparsesim.model.blocks.parallel import Parallel
from sparsesim.model.hf.family import Family, families
from sparsesim.model.hf.ffns import FfnReader
from sparsesim.model.hf.fields import Fields, read_json
from sparsesim.model.hf.layers import layer_kinds, mtp_kinds
from sparsesim.model.hf.mixers import Reader
from sparsesim.model.hf.precision import read_precision
from sparsesim.model.zoo import in_a_row

_NESTED = ("text_config", "llm_config", "language_config")
_TOWERS = ("vision_config", "audio_config", "image_processor_config")
_TOP_LEVEL = ("tie_word_embeddings", "torch_dtype", "dtype", "quantization_config")


def read_config(path: Path) -> Model:
    """The model that a config.json describes; a sibling hf_quant_config.json gives its quantisation.

    Raises:
        InputError: the file cannot be read, or fields are missing, malformed or not understood.

    """
    values, place = read_json(path)
    sibling = path.with_name("hf_quant_config.json")
    if values.get("quantization_config") is None and sibling.is_file():
        values["quantization_config"] = read_json(sibling)[0]
    folder = path.resolve().parent.name
    name = folder if path.stem == "config" else path.stem.removesuffix("_config").replace("--", "/")
    return import_config(values, name, str(path), place)


def import_config(
    values: Mapping[str, Any], name: str, source: str, place: Callable[[str], str] | None = None
) -> Model:
    """The model that the fields of a configuration describe.

    Raises:
        InputError: fields are missing, malformed or not understood, all at once.

    """
    table = families()
    text, notes = _text_model(values)
    kind = text.get("model_type")
    where = place or (lambda _: source)
    if kind not in table.families:
        hint = closest(str(kind), table.families)
        raise InputError(Problem(f"model_type {kind!r} is not understood", "model_type", where("model_type"), hint))
    family = table.families[kind]
    fields = Fields(text, family.defaults, kind, where)
    try:
        model = _assemble(fields, family, name, source, notes)
    except ValidationError as error:
        if not fields.problems:
            fields.problems += [Problem(str(item["msg"]), place=source) for item in error.errors()]
        model = None
    endings = tuple(table.ignored_endings)
    passed = frozenset(table.ignored) | {field for field in text if field.endswith(endings)}
    fields.unread(passed if model is not None else passed | table.vocabulary)
    fields.finish()
    if model is None:
        raise InputError(Problem("describes no model that can be built", place=source))
    return model


def _text_model(values: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The language model's fields, those of the whole that concern it included, and notes on what is left out."""
    nested = next((key for key in _NESTED if isinstance(values.get(key), dict)), None)
    notes = [f"{tower}: not part of the model" for tower in _TOWERS if isinstance(values.get(tower), dict)]
    if nested is None:
        return {key: value for key, value in values.items() if key not in _TOWERS}, notes
    outer = {key: values[key] for key in _TOP_LEVEL if values.get(key) is not None}
    return {**outer, **values[nested]}, notes


def _assemble(fields: Fields, family: Family, name: str, source: str, notes: list[str]) -> Model:
    fields.settled("model_type", "quantization_config")
    d_model = fields.integer("hidden_size", "d_model", "n_embd")
    kinds = layer_kinds(fields, family)
    reader = Reader(fields, family, d_model)
    layers = [_layer(reader, FfnReader(reader, len(kinds)), kind, i) for i, kind in enumerate(kinds)]
    FfnReader(reader, len(kinds)).settle(kinds)
    fields.must_be("hidden_size_per_layer_input", 0)
    fields.must_be("num_kv_shared_layers", 0)
    quantization = {"quant_method": "bitnet"} if family.ternary else fields.mapping("quantization_config")
    precision = read_precision(fields, quantization)
    fields.settled("mtp_hybrid_override_pattern", "mtp_layers_block_type")
    mtp_layers = fields.maybe_integer("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules") or 0
    model = Model(
        name=name,
        source=source,
        d_model=d_model,
        vocab=fields.integer("vocab_size"),
        tied=fields.flag("tie_embedding", fields.flag("tie_word_embeddings", True)),
        max_context=fields.integer("max_position_embeddings", "model_max_length", "max_seq_len", "max_sequence_length"),
        layers=in_a_row(layers),
        precision=precision,
        norm_bias=family.norm_bias,
        head_bias=family.head_bias and fields.flag("lm_head_bias", False),
        mtp=_mtp(fields, reader, kinds) if mtp_layers else (),
        mtp_layers=mtp_layers,
    )
    assumed = [f"{key}: {value!r} (default of {fields.class_name})" for key, value in fields.assumed.items()]
    return model.model_copy(update={"assumed": (*notes, *assumed)})


def _layer(reader: Reader, ffns: FfnReader, kind: str, index: int) -> tuple[Block, ...]:
    """One layer: a mixer and what follows it, or a block of its own where the pattern names each."""
    if kind == "mlp":
        return (ffns.dense(),)
    if kind == "moe":
        return (ffns.moe(),)
    mixer = reader.mixer(kind, index)
    if reader.family.double:
        return (mixer, Parallel(branches=(ffns.dense(), ffns.moe())), mixer, ffns.dense())
    if kind == "hybrid" and reader.family.layers == "zamba2":
        return (mixer, reader.mamba2())
    return (mixer, ffns.block(index)) if reader.family.ffn else (mixer,)


def _mtp(fields: Fields, reader: Reader, kinds: list[str]) -> tuple[Block, ...]:
    """The blocks of a multi-token-prediction module: as its pattern says, else as the last attention layer."""
    ffns = FfnReader(reader, len(kinds))
    pattern = mtp_kinds(fields)
    if pattern:
        return tuple(block for kind in pattern for block in _layer(reader, ffns, kind, 0))
    attention = [i for i, kind in enumerate(kinds) if kind in ("full", "sliding", "chunked", "indexed")]
    last = attention[-1] if attention else len(kinds) - 1
    return _layer(reader, ffns, kinds[last], last)
