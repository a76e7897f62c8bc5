"""Absorbed MLA decode attention: split, online softmax and combine against plain PyTorch."""

from __future__ import annotations

import math

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


@pytest.mark.parametrize(
    ("batch", "blocks", "tokens"), [(64, 1, 8192), (64, 2, 8192), (1, 1, 65536), (3, 1, 64), (133, 1, 4096)]
)
def test_the_split_count_is_the_best_of_all(batch: int, blocks: int, tokens: int) -> None:
    chosen = decode.split_count(batch, blocks, tokens, 64, 132)

    def waves_per_split(splits: int) -> float:
        return math.ceil(batch * blocks * splits / 132) / splits

    assert 1 <= chosen <= max(1, tokens // 256)
    assert all(waves_per_split(chosen) <= waves_per_split(s) for s in range(1, min(64, max(1, tokens // 256)) + 1))


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
