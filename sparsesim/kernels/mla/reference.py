"""Plain PyTorch absorbed MLA decode attention.

Keys and values of all heads are views of one cache row per token: latent (512) and rotary part (64).

    s[b, h, t] = scale * (q_latent[b, h] . latent[b, t] + q_rope[b, h] . rope[b, t]),  t < lengths[b]
    o[b, h] = sum over t of softmax(s)[b, h, t] * latent[b, t]

fp64 inputs give an fp64 oracle; anything else is computed in fp32.
"""

import torch


def mla_reference(
    query: torch.Tensor, cache: torch.Tensor, lengths: torch.Tensor, latent: int, scale: float
) -> torch.Tensor:
    """Outputs `[batch, heads, latent]` of query `[batch, heads, latent + rope]` over the cached rows.

    cache: `[batch, tokens, latent + rope]`.

    lengths `[batch]` counts the cached tokens of each sequence; a sequence without any gives zeros.
    """
    wide = torch.float64 if query.dtype == torch.float64 else torch.float32
    rows = cache.to(wide)
    scores = scale * torch.einsum("bhd,btd->bht", query.to(wide), rows)
    valid = torch.arange(cache.shape[1], device=cache.device)[None, :] < lengths[:, None]
    scores = scores.masked_fill(~valid[:, None, :], float("-inf"))
    weights = torch.nan_to_num(torch.softmax(scores, dim=-1), nan=0.0)
    return torch.einsum("bht,btd->bhd", weights, rows[..., :latent])
