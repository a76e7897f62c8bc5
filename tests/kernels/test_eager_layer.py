"""The eager layer of the benchmark computes a transformer's layer; its traces name every pass that the model counts."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from calibration.kernels.eager_cases import make_layer, tiny, training_step, without_gradients  # noqa: E402
from calibration.kernels.eager_layer import rms_norm, rotary, traced, untraced  # noqa: E402
from calibration.kernels.kernel_trace import passes  # noqa: E402
from sparsesim.model.setting import Setting  # noqa: E402
from sparsesim.model.zoo import load_model  # noqa: E402
from sparsesim.work import Pointwise  # noqa: E402

SIZES = tiny("cpu")
FEW_VALUES = {"attention.norm.rsqrt", "ffn.norm.rsqrt"}
"""Of one value a row, which the model leaves out."""


def test_a_forward_launches_the_passes_that_the_model_counts() -> None:
    layer = make_layer(SIZES, 8, "dense_eager")
    rows = passes(without_gradients(layer, SIZES.entry(1, "plain"), traced), repeats=1)
    launched = {row["pass"] for row in rows if row["phase"] == "forward"} - FEW_VALUES
    tasks = load_model("twell-1b").token_tasks(16.0, Setting(fused=False))
    counted = {task.part for task in tasks if isinstance(task.op, Pointwise) and task.part != "embedding"}
    assert counted <= launched
    assert {"attention.q", "attention.core", "ffn.down"} <= launched


def test_a_backwards_kernels_have_the_name_of_their_forward_pass() -> None:
    step = training_step(SIZES, 1, "dense_eager", 8, "plain")
    step()
    rows = passes(step.traced, repeats=1)
    named = {row["pass"] for row in rows if row["phase"] == "backward"}
    assert {
        "attention.norm.weight",
        "attention.rope.cosine",
        "ffn.activation.function",
        "ffn.down",
        "accumulate",
    } <= named


def test_the_norm_and_the_rotation_are_the_textbooks() -> None:
    x = torch.randn(2, 3, 4, 64, generator=torch.Generator().manual_seed(0))
    weight = torch.rand(64)
    normed = rms_norm("norm", x, weight, untraced)
    assert torch.allclose(normed, torch.nn.functional.rms_norm(x, (64,), weight, 1e-6), atol=1e-6)
    angle = torch.rand(32).repeat(2)
    turned = rotary(x, angle.cos(), angle.sin(), untraced)
    pairs = torch.view_as_complex(torch.stack((x[..., :32], x[..., 32:]), -1).contiguous())
    exact = pairs * torch.polar(torch.ones(32), angle[:32])
    assert torch.allclose(turned, torch.cat((exact.real, exact.imag), -1), atol=1e-6)
