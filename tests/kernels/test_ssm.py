"""SSM: the chunked scan and the decode step against the recurrence, one token after the other."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from sparsesim.kernels.common.checks import assert_close, poisoned  # noqa: E402
from sparsesim.kernels.common.requirements import KernelRequirementError  # noqa: E402
from sparsesim.kernels.ssm import config, decode, reference, scan  # noqa: E402

HALF = torch.float16
TILE = config.ScanTile(chunk=16, num_warps=4, num_stages=2, decay_heads=4)
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def mamba_inputs(
    batch: int, length: int, heads: int, head_dim: int, d_state: int, groups: int
) -> reference.MambaInputs:
    g = torch.Generator().manual_seed(length)

    def half(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=g).to(HALF).to(DEVICE)

    return reference.MambaInputs(
        x=half(batch, length, heads, head_dim),
        dt=half(batch, length, heads),
        b=half(batch, length, groups, d_state),
        c=half(batch, length, groups, d_state),
        a=-torch.rand(heads, generator=g).to(DEVICE) - 0.1,
        d=torch.randn(heads, generator=g).to(DEVICE),
        dt_bias=torch.randn(heads, generator=g).to(DEVICE) - 2.0,
    )


def double(inputs: reference.MambaInputs) -> reference.MambaInputs:
    return reference.MambaInputs(
        *(getattr(inputs, name).double() for name in ("x", "dt", "b", "c", "a", "d", "dt_bias"))
    )


def state_of(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(7)).to(DEVICE)


@pytest.mark.parametrize(
    ("length", "head_dim", "d_state", "groups"), [(1, 16, 16, 1), (37, 20, 24, 2), (48, 16, 32, 1), (16, 8, 16, 4)]
)
def test_scan_equals_the_recurrence(length: int, head_dim: int, d_state: int, groups: int) -> None:
    inputs = mamba_inputs(2, length, 4, head_dim, d_state, groups)
    first = state_of(2, 4, head_dim, d_state)
    out, last = scan.mamba_scan(inputs, first, tile=TILE)
    expected, expected_last = reference.mamba_reference(double(inputs), first.double())
    assert_close("scan", out, expected, HALF)
    assert_close("last state", last, expected_last, HALF)


def test_a_scan_cut_in_two_equals_the_whole() -> None:
    inputs = mamba_inputs(1, 40, 2, 16, 16, 1)

    def part(rows: slice) -> reference.MambaInputs:
        cut = [getattr(inputs, name)[:, rows].contiguous() for name in ("x", "dt", "b", "c")]
        return reference.MambaInputs(*cut, inputs.a, inputs.d, inputs.dt_bias)

    whole, last = scan.mamba_scan(inputs, tile=TILE)
    head, middle = scan.mamba_scan(part(slice(0, 23)), tile=TILE)
    tail, end = scan.mamba_scan(part(slice(23, 40)), middle, tile=TILE)
    assert_close("outputs", torch.cat([head, tail], dim=1), whole.double(), HALF)
    assert_close("state", end, last.double(), HALF)


def test_decay_of_a_single_token_is_the_closed_form() -> None:
    ones = torch.ones(1, 1, 1, 16, dtype=HALF, device=DEVICE)
    scalar = torch.ones(1, device=DEVICE)
    inputs = reference.MambaInputs(
        ones, torch.zeros(1, 1, 1, dtype=HALF, device=DEVICE), ones, ones, -scalar, 0 * scalar, 0 * scalar
    )
    dt = math.log(2.0)  # softplus(0)
    state = torch.full((1, 1, 16, 16), 3.0, device=DEVICE)
    out = decode.mamba_decode(inputs, state, tile=config.DecodeTile(16, 4))
    assert state.flatten().tolist() == pytest.approx([3.0 * 0.5 + dt] * 256, rel=1e-6)  # exp(-ln 2) = 1/2
    assert out.flatten().tolist() == pytest.approx([16 * (1.5 + dt)] * 16, rel=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, HALF])
@pytest.mark.parametrize("block_p", [4, 32])
def test_decode_equals_one_step_of_the_recurrence(dtype: torch.dtype, block_p: int) -> None:
    inputs = mamba_inputs(3, 1, 4, 20, 24, 2)
    state = state_of(3, 4, 20, 24).to(dtype)
    expected, expected_state = reference.mamba_reference(double(inputs), state.double())
    out = poisoned(3, 1, 4, 20, dtype=HALF, device=DEVICE)
    decode.mamba_decode(inputs, state, tile=config.DecodeTile(block_p, 4), out=out)
    assert_close("decode", out, expected, HALF)
    assert_close("state", state, expected_state, dtype)


@pytest.mark.parametrize("v_dim", [8, 20])
def test_delta_decode_equals_one_step_of_the_recurrence(v_dim: int) -> None:
    g = torch.Generator().manual_seed(v_dim)
    q, k = (torch.randn(2, 1, 3, 24, generator=g).to(DEVICE) for _ in range(2))
    v = torch.randn(2, 1, 3, v_dim, generator=g).to(DEVICE)
    gate, beta = (torch.rand(2, 1, 3, generator=g).to(DEVICE) for _ in range(2))
    inputs = reference.DeltaInputs(q, k, v, -gate, beta)
    state = state_of(2, 3, v_dim, 24)
    wide = reference.DeltaInputs(q.double(), k.double(), v.double(), -gate.double(), beta.double())
    expected, expected_state = reference.delta_reference(wide, state.double())
    out = poisoned(2, 1, 3, v_dim, dtype=torch.float32, device=DEVICE)
    decode.delta_decode(inputs, state, tile=config.DecodeTile(16, 4), out=out)
    assert_close("delta decode", out, expected, torch.float32)
    assert_close("delta state", state, expected_state, torch.float32)


def test_full_strength_delta_writes_exactly_the_value_under_a_unit_key() -> None:
    key = torch.nn.functional.normalize(
        torch.randn(1, 1, 1, 16, generator=torch.Generator().manual_seed(0)), dim=-1
    ).to(DEVICE)
    value = torch.arange(16.0, device=DEVICE).view(1, 1, 1, 16)
    one = torch.ones(1, 1, 1, device=DEVICE)
    inputs = reference.DeltaInputs(key, key, value, 0 * one, one)
    out = decode.delta_decode(inputs, state_of(1, 1, 16, 16), tile=config.DecodeTile(16, 4))
    assert out.flatten().tolist() == pytest.approx(value.flatten().tolist(), abs=1e-5)


def test_shapes_that_do_not_fit_are_named() -> None:
    inputs = mamba_inputs(1, 2, 4, 16, 16, 1)
    with pytest.raises(KernelRequirementError, match=r"x has shape \[1, 2, 4, 16\], must be \[any, 1, any, any\]"):
        decode.mamba_decode(inputs, state_of(1, 4, 16, 16))
    with pytest.raises(KernelRequirementError, match=r"state has shape \[1, 4, 16, 8\], must be \[1, 4, 16, 16\]"):
        scan.mamba_scan(inputs, state_of(1, 4, 16, 8))
    with pytest.raises(ValueError, match="b has 3 groups, must divide the 4 heads"):
        mamba_inputs(1, 2, 4, 16, 16, 3)
    with pytest.raises(ValueError, match=r"dt has shape \(1, 1, 4\); x and b ask for \(1, 2, 4\)"):
        reference.MambaInputs(inputs.x, inputs.dt[:, :1], inputs.b, inputs.c, inputs.a, inputs.d, inputs.dt_bias)


def test_without_a_gpu_the_scan_says_what_is_missing_and_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    inputs = mamba_inputs(1, 3, 2, 16, 16, 1)
    with pytest.raises(KernelRequirementError, match=r"mamba_scan: no CUDA device.*call the PyTorch reference"):
        scan.mamba_scan(inputs)
    assert bool(torch.isfinite(reference.mamba_reference(inputs, state_of(1, 2, 16, 16))[0]).all())
