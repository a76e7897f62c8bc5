"""Threshold sparsification and the sparse GEMV against plain PyTorch."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from sparsesim.kernels.common.checks import assert_close  # noqa: E402
from sparsesim.kernels.common.requirements import KernelRequirementError  # noqa: E402
from sparsesim.kernels.delta import config, gemv, reference, threshold  # noqa: E402

HALF = torch.float16
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TILE = config.GemvTile(block_n=32, step=16, splits=4, num_warps=4)


def half(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(HALF).to(DEVICE)


def dense_of(survivors: threshold.Survivors, d: int) -> torch.Tensor:
    projections, tokens = survivors.count.shape
    dense = torch.zeros((projections, tokens, d), dtype=survivors.value.dtype, device=DEVICE)
    for p in range(projections):
        for t in range(tokens):
            kept = int(survivors.count[p, t])
            dense[p, t, survivors.place[p, t, :kept].long()] = survivors.value[p, t, :kept]
    return dense


def poisoned_survivors(projections: int, tokens: int, d: int) -> threshold.Survivors:
    value = torch.full((projections, tokens, d), float("nan"), dtype=HALF, device=DEVICE)
    place = torch.full((projections, tokens, d), -1, dtype=torch.int32, device=DEVICE)
    return threshold.Survivors(value, place, torch.full((projections, tokens), -1, dtype=torch.int32, device=DEVICE))


@pytest.mark.parametrize(("tokens", "d"), [(1, 7), (2, 75), (3, 64)])
def test_packed_survivors_are_the_soft_threshold(tokens: int, d: int) -> None:
    x, delta = half(tokens, d), torch.tensor([0.0, 0.7, 9.0], device=DEVICE)
    found = threshold.threshold(x, delta, tile=config.ThresholdTile(32, 4), out=poisoned_survivors(3, tokens, d))
    expected, count = reference.threshold_reference(x, delta)
    assert torch.equal(found.count, count)
    assert torch.equal(dense_of(found, d), expected)
    assert int(found.count[2].sum()) == 0
    places = found.place[1, 0, : int(found.count[1, 0])]
    assert torch.equal(places, places.sort().values), "survivors stay in order"


def test_the_threshold_shrinks_towards_zero_by_delta() -> None:
    x = torch.tensor([[-2.0, -0.5, 0.0, 0.5, 0.75, 3.0]], dtype=HALF, device=DEVICE)
    sparse, count = reference.threshold_reference(x, torch.tensor([0.5], device=DEVICE))
    assert sparse.flatten().tolist() == [-1.5, 0.0, 0.0, 0.0, 0.25, 2.5]
    assert count.tolist() == [[3]]


@pytest.mark.parametrize("delta", [0.0, 0.8, 2.2])
@pytest.mark.parametrize(("tokens", "d", "n"), [(1, 75, 50), (3, 33, 70)])
def test_both_sparse_products_equal_the_dense_one(delta: float, tokens: int, d: int, n: int) -> None:
    x, weight = half(tokens, d), half(d, n, seed=1)
    expected = reference.sparse_gemv_reference(x.double(), weight.double(), delta)
    out, count = gemv.skip_gemv(x, weight, delta, tile=TILE)
    assert_close("skip", out, expected, HALF)
    survivors = threshold.threshold(x, torch.tensor([delta], device=DEVICE), out=poisoned_survivors(1, tokens, d))
    assert torch.equal(count, survivors.count[0])
    assert_close("gather", gemv.gather_gemv(survivors, 0, weight, tile=TILE), expected, HALF)


def test_rows_of_values_below_the_threshold_are_not_read() -> None:
    x, weight = half(1, 40), half(40, 50, seed=1)
    dead = x[0].abs() <= 1.0
    weight[dead] = float("nan")
    expected = reference.sparse_gemv_reference(x, weight.nan_to_num(0.0), 1.0)
    assert_close("skip", gemv.skip_gemv(x, weight, 1.0, tile=TILE)[0], expected, HALF)
    survivors = threshold.threshold(x, torch.tensor([1.0], device=DEVICE))
    assert_close("gather", gemv.gather_gemv(survivors, 0, weight, tile=TILE), expected, HALF)


def test_no_survivor_gives_zeros_and_the_counters_are_ready_again() -> None:
    x, weight = half(2, 40), half(40, 50, seed=1)
    scratch = gemv.GemvScratch(2, 50, TILE, x.device)
    out, count = gemv.skip_gemv(x, weight, 99.0, tile=TILE, scratch=scratch)
    assert not bool(out.any())
    assert count.tolist() == [0, 0]
    assert not bool(scratch.counter.any())


@pytest.mark.parametrize("density", [0.1, 0.5, 1.0])
def test_the_calibrated_delta_keeps_the_asked_share(density: float) -> None:
    x = half(4, 250)
    _, count = reference.threshold_reference(
        x.float(), torch.tensor([reference.calibrate_delta(x, density)], device=DEVICE)
    )
    assert float(count.sum()) / x.numel() == pytest.approx(density, abs=0.01)


def test_what_does_not_fit_is_named() -> None:
    with pytest.raises(KernelRequirementError, match=r"weight has shape \[8, 4\], must be \[9, any\]"):
        gemv.skip_gemv(half(1, 9), half(8, 4), 0.1)
    with pytest.raises(KernelRequirementError, match=r"delta is torch\.float64"):
        threshold.threshold(half(1, 9), torch.zeros(1, dtype=torch.float64, device=DEVICE))
    with pytest.raises(ValueError, match="density is 0"):
        reference.calibrate_delta(half(1, 9), 0.0)


def test_without_a_gpu_the_product_says_what_is_missing_and_the_reference_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    x, weight = half(1, 9), half(9, 4, seed=1)
    with pytest.raises(KernelRequirementError, match=r"skip_gemv: no CUDA device.*call the PyTorch reference"):
        gemv.skip_gemv(x, weight, 0.1)
    assert bool(torch.isfinite(reference.sparse_gemv_reference(x, weight, 0.1)).all())
