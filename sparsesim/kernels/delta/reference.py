"""Plain PyTorch threshold sparsification and the product that may skip what it zeroed.

    s = sign(x) relu(|x| - delta);  y = W s;  survivors = number of s != 0

Every projection has its own delta on the same x (query, key, value; gate, up). fp64 inputs give an fp64 oracle.
"""

import torch


def threshold_reference(x: torch.Tensor, delta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft threshold of x `[tokens, d]` by delta `[projections]`: (`[projections, tokens, d]`, survivors int32).

    Survivors `[projections, tokens]` count the non-zero values as stored in x's dtype.
    """
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    shrunk = torch.relu(x.to(wide).abs()[None] - delta.to(wide)[:, None, None])
    sparse = (torch.sign(x.to(wide))[None] * shrunk).to(x.dtype)
    return sparse, (sparse != 0).sum(dim=-1, dtype=torch.int32)


def sparse_gemv_reference(x: torch.Tensor, weight: torch.Tensor, delta: float) -> torch.Tensor:
    """Weight `[d, n]` (one row per input) times the thresholded x `[tokens, d]`: `[tokens, n]`, fp32 (fp64)."""
    sparse, _ = threshold_reference(x, torch.tensor([delta], device=x.device))
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return sparse[0].to(wide) @ weight.to(wide)


def calibrate_delta(x: torch.Tensor, density: float) -> float:
    """The delta that leaves the share `density` of the values of x: its (1 - density) quantile of |x|.

    Raises ValueError for a density outside (0, 1].
    """
    if not 0.0 < density <= 1.0:
        raise ValueError(f"density is {density}, must be above 0 and at most 1")
    magnitude = x.abs().flatten().double().sort().values
    kept = round(density * magnitude.numel())
    return 0.0 if kept == magnitude.numel() else float(magnitude[magnitude.numel() - kept - 1])
