"""A model as the rows a reader wants: sizes, cache, state, and its distinct blocks."""

from __future__ import annotations

from typing import Any

from sparsesim.model.zoo import load_model


def describe(name: str) -> dict[str, Any]:
    """Facts of the model of a name, a YAML, or a Hugging Face config.json.

    Raises:
        InputError: unknown name, or a field that is not understood.

    """
    model = load_model(name)
    kv = {f"KV cache of a sequence of {n} tokens, B": float(model.kv_bytes(float(n))) for n in (4096, 131072)}
    return {
        "name": model.name,
        "source": model.source,
        "layers": model.layer_count,
        "d_model": model.d_model,
        "vocabulary": model.vocab,
        "tied": model.tied,
        "longest context, tok": model.max_context,
        "parameters": model.parameters(),
        "active parameters": model.active_parameters(),
        "weights, B": model.weight_bytes(),
        "KV cache a token, B": model.kv_bytes_per_token(),
        **kv,
        "state a sequence, B": model.state_bytes(),
        "precision": ", ".join(f"{k} {v}" for k, v in model.precision.model_dump(exclude_defaults=False).items() if v),
        "blocks": [
            {
                "block": block.kind,
                "layers": count,
                "parameters": block.parameters(model.d_model),
                "sizes": ", ".join(f"{k} {v}" for k, v in block.model_dump(exclude_defaults=True).items()),
            }
            for block, count in model.blocks
        ],
        "assumed": list(model.assumed),
    }
