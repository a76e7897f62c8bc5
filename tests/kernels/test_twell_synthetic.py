"""Synthetic layers make the gate itself produce the pattern of a law."""

from __future__ import annotations

import numpy as np
import torch

from sparsesim import laws
from sparsesim.kernels.twell.synthetic import synthetic_layer, tokens


def active(law: laws.ActivationLaw, rows: int) -> np.ndarray:
    layer = synthetic_layer(law, 256, torch.float32, "cpu", seed=0)
    gate = tokens(layer, rows, seed=1) @ layer.weights.gate.T
    return (gate > 0).numpy()


def test_each_neuron_is_active_with_its_frequency() -> None:
    law = laws.ActivationLaw(laws.zipf_frequencies(512, 20.0))
    found = active(law, 4000).mean(axis=0)
    assert not found[law.frequency == 0.0].any()
    # Weights and frequency meet through a norm that differs a little from neuron to neuron.
    alive = law.frequency > 0.01
    assert np.allclose(found[alive], law.frequency[alive], rtol=0.35, atol=0.01)
    assert abs(found.sum() - 20.0) < 1.0


def test_heavy_rows_and_correlated_tokens_follow_the_law() -> None:
    law = laws.ActivationLaw(laws.uniform_frequencies(512, 20.0), row_sigma=0.6, correlation=0.9)
    mask = active(law, 1500)
    nnz = mask.sum(axis=1)
    assert abs(nnz.mean() - 20.0) < 3.0
    assert nnz.max() > 3 * nnz.mean()
    together = (mask[1:] & mask[:-1]).sum() / mask[:-1].sum()
    assert together > 5 * law.frequency[0]
