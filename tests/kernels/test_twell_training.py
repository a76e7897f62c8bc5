"""Gradients of the sparse training layer equal those of the dense layer, heavy rows and dead neurons included."""

from __future__ import annotations

import pytest
import torch

from sparsesim.kernels.common.checks import assert_close, relative_error
from sparsesim.kernels.twell.format import TwellFormat
from sparsesim.kernels.twell.launch import GateLaunch
from sparsesim.kernels.twell.training import TrainingSettings, sparse_ffn_train
from sparsesim.kernels.twell.weights import FfnWeights

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float16
SETTINGS = TrainingSettings(capacity=40, hot=8, form=TwellFormat(64, 32), gate=GateLaunch(16, 32))


def leaves(rows: int, width: int, neurons: int, bias: float) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(rows, width, generator=generator)
    x[:, 0] = 1.0
    matrices = [torch.randn(neurons, width, generator=generator) * width**-0.5 for _ in range(3)]
    matrices[0][:, 0] = bias
    return [tensor.to(DEVICE, DTYPE).requires_grad_() for tensor in (x, *matrices)]


def dense_gradients(tensors: list[torch.Tensor], dy: torch.Tensor) -> tuple[torch.Tensor, ...]:
    x, gate, up, down = (tensor.detach().float().requires_grad_() for tensor in tensors)
    out = (torch.relu(x @ gate.T) * (x @ up.T)) @ down
    return (out, *torch.autograd.grad(out, [x, gate, up, down], dy.float()))


@pytest.mark.parametrize("bias", [-1.8, -0.6, 3.0], ids=["sparse", "some rows heavy", "all rows heavy"])
def test_output_and_gradients_equal_the_dense_layer(bias: float) -> None:
    tensors = leaves(11, 64, 192, bias)
    dy = torch.randn(11, 64, generator=torch.Generator().manual_seed(9)).to(DEVICE, DTYPE)
    out = sparse_ffn_train(tensors[0], FfnWeights(*tensors[1:]), SETTINGS)
    found = (out, *torch.autograd.grad(out, tensors, dy))
    for name, one, exact in zip(("y", "dx", "dWg", "dWu", "dWd"), found, dense_gradients(tensors, dy), strict=True):
        assert_close(name, one, exact, torch.bfloat16)


def test_no_active_neuron_gives_zero_gradients() -> None:
    tensors = leaves(3, 64, 64, -40.0)
    out = sparse_ffn_train(tensors[0], FfnWeights(*tensors[1:]), SETTINGS)
    assert all(not grad.any() for grad in torch.autograd.grad(out.sum(), tensors))


def test_the_hot_share_does_not_change_the_gradients() -> None:
    tensors = leaves(7, 64, 64, -1.0)
    grads = []
    for hot in (1, 64):
        settings = TrainingSettings(capacity=64, hot=hot, form=TwellFormat(64, 128), gate=GateLaunch(16, 32))
        out = sparse_ffn_train(tensors[0], FfnWeights(*tensors[1:]), settings)
        grads.append(torch.autograd.grad(out.float().square().sum(), tensors))
    assert all(relative_error(one, other) < 5e-3 for one, other in zip(*grads, strict=True))


def test_saved_memory_is_far_below_the_dense_layers() -> None:
    tensors = leaves(32, 64, 256, -2.5)
    saved: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved.append(0 if tensor.is_leaf and tensor.requires_grad else tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        sparse_ffn_train(tensors[0], FfnWeights(*tensors[1:]), SETTINGS)
    dense_bytes = 3 * 32 * 256 * 2  # gate, up and hidden activations
    assert sum(saved) < dense_bytes / 5
