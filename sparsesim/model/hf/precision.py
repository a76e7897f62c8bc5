"""Dtypes of a checkpoint: torch_dtype, quantization_config and a sibling hf_quant_config.json."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sparsesim.errors import closest
from sparsesim.model.hf.fields import Fields
from sparsesim.model.setting import Precision

_TORCH = {"bfloat16": "bf16", "float16": "fp16", "half": "fp16", "float32": "fp32", "float": "fp32"}
_FP32_BYTES = 4.0
_FP16_BYTES = 2.0
_GROUP_TABLE = 128
"""Group size of the dtype int4-g128, which carries its scales itself."""
_NF4_BLOCK, _NF4_NESTED_BLOCK = 64, 16384
"""bitsandbytes: a scale per 64 weights, quantised to one byte with an fp32 scale per 256 of them when nested."""

_ATTENTION = re.compile(r"self_attn\W*$|self_attn\.(?:q|k|v|o|qkv)_proj$")

METHODS = ("fp8", "fbgemm_fp8", "mxfp4", "gptq", "awq", "bitsandbytes", "compressed-tensors", "modelopt", "bitnet")


def read_precision(fields: Fields, quantization: Mapping[str, Any] | None) -> Precision:
    """Precision of weights, activations, cache and state as the checkpoint stores them."""
    base = _torch_dtype(fields, fields.text("torch_dtype", "dtype", otherwise="bfloat16"), "torch_dtype")
    state_field = fields.text("mamba_ssm_cache_dtype", "mamba_ssm_dtype")
    state = _torch_dtype(fields, state_field, "mamba_ssm_cache_dtype") if state_field else base
    plain: dict[str, Any] = {"weights": base, "activations": base, "kv": base, "state": state}
    if quantization is None:
        return Precision(**plain)
    found = _quantized(fields, quantization, base)
    unconverted = quantization.get("modules_to_not_convert") or quantization.get("ignore") or ()
    if "experts" not in found and leaves_attention(unconverted):
        return Precision(**plain, experts=found.get("weights", base), scale_bytes=found.get("scale_bytes", 0.0))
    return Precision(**{**plain, **found})


def _torch_dtype(fields: Fields, name: str, where: str) -> str:
    word = name.removeprefix("torch.")
    if word not in _TORCH:
        fields.fault(where, f"unknown dtype {name!r}", closest(word, _TORCH))
        return "bf16"
    return _TORCH[word]


def _quantized(fields: Fields, config: Mapping[str, Any], base: str) -> dict[str, Any]:
    method = str(config.get("quant_method", "modelopt" if "quantization" in config or "quant_algo" in config else ""))
    if method in ("fp8", "fbgemm_fp8"):
        return {"weights": "fp8", "activations": "fp8", "scale_bytes": _block_scale(config.get("weight_block_size"))}
    if method == "mxfp4":
        return {"experts": "mxfp4"}
    if method in ("gptq", "awq"):
        return _integer(
            fields, config.get("bits", config.get("w_bit")), config.get("group_size", config.get("q_group_size"))
        )
    if method == "bitsandbytes":
        return _bitsandbytes(config)
    if method == "compressed-tensors":
        return _compressed(fields, config)
    if method == "modelopt":
        return _modelopt(fields, config.get("quantization", config))
    if method == "bitnet":
        return {"weights": "ternary", "activations": "int8"}
    fields.fault("quantization_config", f"unknown quant_method {method!r}", closest(method, METHODS))
    return {"weights": base}


def _block_scale(block: object) -> float:
    """An fp32 scale per block of weights; per tensor where there is no block."""
    if isinstance(block, list) and len(block) == 2:
        return _FP32_BYTES / float(block[0] * block[1])
    return 0.0


def _integer(fields: Fields, bits: object, group: object) -> dict[str, Any]:
    """Weight-only integers: per group an fp16 scale and a zero point as wide as a weight."""
    if bits not in (4, 8) or not isinstance(group, int):
        fields.fault(
            "quantization_config", f"bits {bits!r} with group_size {group!r}", "4 or 8 bits and a whole number"
        )
        return {}
    if bits == 4 and group == _GROUP_TABLE:
        return {"weights": "int4-g128"}
    scale = (_FP16_BYTES + bits / 8) / group if group > 0 else 0.0
    return {"weights": f"int{bits}", "scale_bytes": scale}


def _bitsandbytes(config: Mapping[str, Any]) -> dict[str, Any]:
    if config.get("load_in_8bit"):
        return {"weights": "int8", "activations": "int8"}
    nested = 1.0 / _NF4_BLOCK + _FP32_BYTES / _NF4_NESTED_BLOCK
    plain = _FP32_BYTES / _NF4_BLOCK
    return {"weights": "int4", "scale_bytes": nested if config.get("bnb_4bit_use_double_quant") else plain}


def _compressed(fields: Fields, config: Mapping[str, Any]) -> dict[str, Any]:
    groups = config.get("config_groups") or {}
    schemes = [group for group in groups.values() if isinstance(group, dict)]
    if len(schemes) != 1:
        fields.fault("quantization_config", f"{len(schemes)} config_groups", "exactly one is understood")
        return {}
    weights, inputs = schemes[0].get("weights") or {}, schemes[0].get("input_activations")
    kv = config.get("kv_cache_scheme")
    found = {"kv": "fp8"} if kv else {}
    kind, bits, group = weights.get("type"), weights.get("num_bits"), weights.get("group_size")
    if kind == "float" and bits == 8:
        block = weights.get("block_structure")
        return {
            "weights": "fp8",
            "scale_bytes": _block_scale(block),
            **({"activations": "fp8"} if inputs else {}),
            **found,
        }
    if kind == "float" and bits == 4:
        dtype = "mxfp4" if group == 32 else "nvfp4"
        return {"weights": dtype, **({"activations": "fp4"} if inputs else {}), **found}
    if kind == "int" and bits in (4, 8):
        own = _integer(fields, bits, group if isinstance(group, int) else -1)
        return {**own, **({"activations": "int8"} if inputs else {}), **found}
    fields.fault("quantization_config", f"weights of type {kind!r} with {bits!r} bits", "float or int, 4 or 8 bits")
    return {}


def _modelopt(fields: Fields, config: Mapping[str, Any]) -> dict[str, Any]:
    algorithm = str(config.get("quant_algo", ""))
    kv = {"kv": "fp8"} if str(config.get("kv_cache_quant_algo")) == "FP8" else {}
    known: dict[str, dict[str, Any]] = {
        "FP8": {"weights": "fp8", "activations": "fp8"},
        "NVFP4": {"weights": "nvfp4", "activations": "fp4"},
        "W4A16_AWQ": {"weights": "int4-g128"},
    }
    if algorithm not in known:
        fields.fault("quantization_config", f"unknown quant_algo {algorithm!r}", closest(algorithm, known))
        return {}
    return {**known[algorithm], **kv}


def leaves_attention(patterns: Iterable[str]) -> bool:
    """Whether attention projections are left unconverted: then the routed experts alone count as quantised."""
    return any(_ATTENTION.search(pattern) for pattern in patterns)
