"""The local stages of an expert-parallel layer: our kernels against plain PyTorch, on the same buffers."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from sparsesim.calibrate.measure.expert_parallel.buffers import Buffers, Weights, buffers, rank_weights  # noqa: E402
from sparsesim.calibrate.measure.expert_parallel.layer import ExpertLayer  # noqa: E402
from sparsesim.calibrate.measure.expert_parallel.stages import HostStages, TritonStages  # noqa: E402
from sparsesim.kernels.common.checks import poisoned, relative_error  # noqa: E402
from sparsesim.kernels.moe.permute import permute  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The interpreter multiplies bf16 matrices as if they were integers, so products are tested in fp16 there.
HALF = torch.float16
LAYER = ExpertLayer(ranks=2, tokens=21, d_model=64, d_ff=32, experts=8, top_k=3, load="zipf")


def half(value: Any) -> Any:
    return value.to(HALF) if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def prepared(rank: int, device: Any) -> tuple[Buffers, Weights]:
    """Buffers and weights of a rank in half precision, as made on the host; received rows are noise."""
    own, weights = buffers(LAYER, rank, 0, torch.device("cpu")), rank_weights(LAYER, rank, torch.device("cpu"))
    own.poison()
    own.received.normal_().mul_(0.1)
    own.returned.normal_()
    place: Callable[[Any], Any] = lambda v: half(v).to(device) if isinstance(v, torch.Tensor) else v  # noqa: E731
    changed = {f.name: place(getattr(own, f.name)) for f in fields(Buffers)}
    return replace(own, **changed), Weights(place(weights.gate_up) * 0.1, place(weights.down) * 0.1)


@pytest.mark.parametrize("rank", [0, 1])
def test_kernels_and_plain_stages_give_the_same_buffers(rank: int) -> None:
    torch.manual_seed(rank)
    ours, weights = prepared(rank, DEVICE)
    torch.manual_seed(rank)
    plain, host_weights = prepared(rank, torch.device("cpu"))
    kernels, host = TritonStages(ours, weights), HostStages(plain, host_weights)
    for stage, buffer in (("permute", "send"), ("experts", "expert_out"), ("weigh", "out")):
        getattr(kernels, stage)()
        getattr(host, stage)()
        result, expected = getattr(ours, buffer).cpu(), getattr(plain, buffer)
        assert relative_error(result, expected) < 2e-3, stage
    assert torch.equal(ours.send.cpu(), plain.send)  # a permutation rounds nothing


@pytest.mark.parametrize("d_model", [8, 1024, 1500])
def test_permute_copies_each_row_and_no_other(d_model: int) -> None:
    x = torch.randn(5, d_model, device=DEVICE).to(HALF)
    row_token = torch.tensor([4, 0, 0, 3], dtype=torch.int32, device=DEVICE)
    out = poisoned(6, d_model, dtype=HALF, device=DEVICE)
    permute(x, row_token, out[:4])
    assert torch.equal(out[:4], x[row_token.long()])
    assert bool(out[4:].isnan().all())
    with pytest.raises(ValueError, match="expected"):
        permute(x, row_token, out)
