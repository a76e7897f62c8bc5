"""Absorbed MLA decode attention: split, online softmax and combine against plain PyTorch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from sparsesim.kernels.common.checks import assert_close, poisoned  # noqa: E402
from sparsesim.kernels.common.requirements import KernelRequirementError  # noqa: E402
from sparsesim.kernels.mla import config, decode, reference  # noqa: E402

HALF = torch.float16
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILES = {
    "cache left": config.MlaTile(block_h=16, block_t=16, num_warps=4, num_stages=2, swap=True),
    "query left": config.MlaTile(block_h=16, block_t=16, num_warps=4, num_stages=2, swap=False),
}


def half(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(HALF).to(DEVICE)


def int32(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32, device=DEVICE)


@pytest.mark.parametrize("name", TILES)
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("heads", [5, 20])
def test_decode_equals_attention_over_the_cached_rows(name: str, splits: int, heads: int) -> None:
    query, cache, lengths = half(4, heads, 48), half(4, 70, 48, seed=1), int32(70, 33, 0, 1)
    out = poisoned(4, heads, 32, dtype=HALF, device=DEVICE)
    decode.mla_decode(query, cache, lengths, 32, 0.3, tile=TILES[name], splits=splits, out=out)
    expected = reference.mla_reference(query.double(), cache.double(), lengths, 32, 0.3)
    assert_close(name, out, expected, HALF)
    assert not bool(out[2].any()), "a sequence without cached tokens has no output"


def test_equal_scores_average_the_latent_columns() -> None:
    cache, lengths = half(1, 21, 32), int32(13)
    out = decode.mla_decode(
        torch.zeros(1, 16, 32, dtype=HALF, device=DEVICE), cache, lengths, 16, 1.0, tile=TILES["cache left"]
    )
    assert_close("mean", out[0, 3], cache[0, :13, :16].double().mean(0), HALF)


def test_scores_far_apart_do_not_overflow() -> None:
    cache = torch.zeros(1, 40, 32, dtype=HALF, device=DEVICE)
    cache[0, :, 16] = torch.arange(40.0)
    cache[0, :, 0] = 1.0
    query = torch.zeros(1, 16, 32, dtype=HALF, device=DEVICE)
    query[..., 16] = 100.0
    out = decode.mla_decode(query, cache, int32(40), 16, 1.0, tile=TILES["query left"], splits=2)
    assert out[0, :, 0].tolist() == pytest.approx([1.0] * 16)


# Medians in us by (heads, batch, tokens) and splits on an H100, from calibration/data/h100-sxm/mla.csv.
MEASURED_SPLITS_US = {
    (128, 64, 8192): {1: 333.0, 2: 340.5, 4: 370.5, 8: 415.4},
    (128, 16, 8192): {1: 319.5, 2: 164.1, 4: 95.2, 8: 109.6},
    (64, 64, 8192): {1: 324.0, 2: 222.0, 4: 240.3, 8: 280.5},
    (16, 4, 32768): {32: 62.4, 33: 63.6, 64: 70.5},
}


def problem_of(heads: int, batch: int, tokens: int, partial_bytes: float | None = None) -> decode.SplitProblem:
    partial_bytes = 8.0 * batch * heads * 512 if partial_bytes is None else partial_bytes
    units = batch * max(1, heads // 64)
    return decode.SplitProblem(units, tokens, 1152.0 * batch * tokens, partial_bytes, 132)


@pytest.mark.parametrize(("heads", "batch", "tokens"), MEASURED_SPLITS_US)
def test_the_split_count_is_the_fastest_measured_one(heads: int, batch: int, tokens: int) -> None:
    measured, problem = MEASURED_SPLITS_US[heads, batch, tokens], problem_of(heads, batch, tokens)
    block_t, costs = (32, config.FEW_HEADS_COSTS) if heads == 16 else (64, config.MANY_HEADS_COSTS)
    chosen = decode.split_count(problem, block_t, costs)
    if chosen in measured:
        assert measured[chosen] == min(measured.values())
    for splits, time_us in measured.items():
        assert decode.split_time_s(splits, problem, costs) * 1e6 == pytest.approx(time_us, rel=0.1)


def test_more_partial_bytes_never_ask_for_more_splits() -> None:
    problems = [problem_of(128, 100, 4096, size) for size in (0.0, 1e6, 5e7, 1e9)]
    counts = [decode.split_count(problem, 64, config.MANY_HEADS_COSTS) for problem in problems]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > counts[-1] == 1


def test_what_does_not_fit_is_named() -> None:
    query, cache = half(2, 16, 48), half(2, 20, 48)
    with pytest.raises(KernelRequirementError, match=r"cache has shape \[1, 20, 48\], must be \[2, any, 48\]"):
        decode.mla_decode(query, cache[:1], int32(1, 1), 32, 1.0)
    with pytest.raises(KernelRequirementError, match="latent is 40"):
        decode.mla_decode(query, cache, int32(1, 1), 40, 1.0)
    with pytest.raises(KernelRequirementError, match=r"lengths is torch\.int64"):
        decode.mla_decode(query, cache, int32(1, 1).long(), 32, 1.0)
    with pytest.raises(ValueError, match="num_stages is 1"):
        config.MlaTile(16, 64, 4, 1, True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the hand-placed kernel needs a Hopper GPU")
@pytest.mark.parametrize("heads", [64, 100, 128])
def test_the_hopper_kernel_equals_attention(heads: int) -> None:
    if not decode.hopper_applies(heads, 512, 64):
        pytest.skip("the hand-placed kernel needs a Hopper GPU")
    g = torch.Generator().manual_seed(heads)
    query = torch.randn(3, heads, 576, generator=g).to(torch.bfloat16).cuda()
    cache = torch.randn(3, 1000, 576, generator=g).to(torch.bfloat16).cuda()
    lengths = int32(1000, 65, 0)
    out = poisoned(3, heads, 512, dtype=torch.bfloat16, device="cuda")
    decode.mla_decode(query, cache, lengths, 512, 576**-0.5, out=out)
    assert_close("hopper", out, reference.mla_reference(query, cache, lengths, 512, 576**-0.5), torch.bfloat16)


def test_without_a_gpu_decode_says_what_is_missing_and_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    query, cache = half(1, 4, 48), half(1, 9, 48, seed=1)
    with pytest.raises(KernelRequirementError, match=r"mla_decode: no CUDA device.*call the PyTorch reference"):
        decode.mla_decode(query, cache, int32(9), 32, 1.0)
    assert bool(torch.isfinite(reference.mla_reference(query, cache, int32(9), 32, 1.0)).all())
