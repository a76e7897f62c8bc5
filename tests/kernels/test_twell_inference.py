"""Every inference path of the TwELL family equals the dense FFN, whatever the input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from sparsesim.kernels.common.checks import assert_close, poisoned
from sparsesim.kernels.common.requirements import KernelRequirementError
from sparsesim.kernels.twell import convert, reference
from sparsesim.kernels.twell.ffn import PATHS, FfnSettings, Path, ffn
from sparsesim.kernels.twell.format import TwellFormat, entry, entry_columns, entry_values
from sparsesim.kernels.twell.gather import Worklist, up_down
from sparsesim.kernels.twell.launch import GateLaunch, GatherLaunch
from sparsesim.kernels.twell.pack import pack_gate
from sparsesim.kernels.twell.weights import FfnWeights, FusedWeights

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter multiplies bf16 matrices as if they were integers, so products are tested in fp16 there; gate
# values are bf16 in every format, hence the bf16 bound below.
DTYPE = torch.bfloat16 if DEVICE == "cuda" else torch.float16
SMALL = FfnSettings(TwellFormat(64, 32), capacity=96, hot=64, gate=GateLaunch(16, 32))


def layer(rows: int, width: int, neurons: int, bias: float, seed: int = 0) -> tuple[torch.Tensor, FfnWeights]:
    """Tokens and weights; the first column shifts all gates by ``bias`` standard deviations."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator)
    x[:, 0] = 1.0
    matrices = [torch.randn(neurons, width, generator=generator) * width**-0.5 for _ in range(3)]
    matrices[0][:, 0] = bias
    return x.to(DEVICE, DTYPE), FfnWeights(*(matrix.to(DEVICE, DTYPE) for matrix in matrices))


def run(path: Path, x: torch.Tensor, weights: FfnWeights, settings: FfnSettings = SMALL) -> torch.Tensor:
    if path == "hot_cold":
        frequency = (reference.gate(x, weights) > 0).float().mean(dim=0)
        return ffn(x, weights.by_frequency(frequency), path, settings)
    return ffn(x, weights, path, settings)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("bias", [-1.5, 0.0, 9.0], ids=["sparse", "half (overflows)", "every neuron active"])
def test_every_path_equals_dense(path: Path, bias: float) -> None:
    x, weights = layer(5, 64, 192, bias)
    assert_close(path, run(path, x, weights), reference.ffn(x, weights), torch.bfloat16)


@pytest.mark.parametrize("path", ["twell", "hot_cold", "gate_pack"])
@pytest.mark.parametrize("bias", [-40.0, -1.5, 0.0, 9.0], ids=["none active", "sparse", "half (overflows)", "all"])
@pytest.mark.parametrize("width", [64, 192])
def test_two_passes_equal_dense(path: Path, bias: float, width: int) -> None:
    x, weights = layer(5, width, 192, bias)
    settings = replace(SMALL, gather=GatherLaunch(two_pass_from=1, two_pass_from_hot=1))
    assert_close(path, run(path, x, weights, settings), reference.ffn(x, weights), torch.bfloat16)


@pytest.mark.parametrize("path", PATHS)
def test_one_token_with_no_active_neuron_gives_zero(path: Path) -> None:
    x, weights = layer(1, 64, 128, -40.0)
    assert torch.equal(run(path, x, weights), torch.zeros_like(x))


@pytest.mark.parametrize(("width", "neurons"), [(64, 64), (192, 320), (128, 448)])
def test_odd_sizes(width: int, neurons: int) -> None:
    x, weights = layer(7, width, neurons, -1.5)
    exact = reference.ffn(x, weights)
    for path in ("twell", "gate_compact", "decode"):
        assert_close(path, ffn(x, weights, path, SMALL), exact, torch.bfloat16)


def test_packed_words_are_the_references_in_the_same_order_every_time() -> None:
    x, weights = layer(21, 64, 192, -1.0)
    form = TwellFormat(64, 32)
    expected = reference.pack(reference.gate(x, weights).to(torch.bfloat16), form)
    for _ in range(2):
        words = pack_gate(x, weights, form, GateLaunch(16, 32), out=torch.zeros_like(expected))
        assert torch.equal(words & 0xFFFF, expected & 0xFFFF)
        assert_close("values", entry_values(words), entry_values(expected), torch.bfloat16)


def test_overflowing_tile_keeps_its_true_count_and_flags_the_row() -> None:
    gated = torch.zeros(2, 64, dtype=torch.bfloat16)
    gated[1, :20] = 1.0
    form = TwellFormat(64, 16)
    words = convert.to_words(gated.to(DEVICE), form).cpu()
    assert words[:, 0].tolist() == [0, 20]
    _, overflowed = reference.unpack(words, 64, form)
    assert overflowed.tolist() == [False, True]


def test_only_overflowing_rows_reach_the_worklist_and_others_are_written() -> None:
    x, weights = layer(6, 64, 192, -2.0)
    gated = reference.gate(x, weights)
    gated[2] = 1.0
    work = Worklist.empty(6, x.device)
    out = up_down(x, gated, weights, work, capacity=64, out=poisoned(6, 64, dtype=DTYPE, device=DEVICE))
    assert work.count.item() == 1
    assert work.rows[0].item() == 2
    assert torch.isnan(out[2]).all()
    kept = [row for row in range(6) if row != 2]
    exact = reference.up_down(x, reference.to_rows(gated, 192), weights)
    assert_close("kept rows", out[kept], exact[kept], torch.bfloat16)


def test_conversions_agree_with_the_reference() -> None:
    gated = torch.relu(torch.randn(7, 320, generator=torch.Generator().manual_seed(1)) - 1.0).to(torch.bfloat16)
    rows, csr = convert.to_rows(gated.to(DEVICE), 320), convert.to_csr(gated.to(DEVICE), gated.numel())
    exact_rows, exact_csr = reference.to_rows(gated, 320), reference.to_csr(gated)
    nnz = int(exact_csr.starts[-1])
    assert torch.equal(rows.counts.cpu(), exact_rows.counts)
    assert torch.equal(csr.starts.cpu(), exact_csr.starts)
    assert torch.equal(csr.entries[:nnz].cpu(), exact_csr.entries)
    for row, count in enumerate(exact_rows.counts.tolist()):
        assert torch.equal(rows.entries[row, :count].cpu(), exact_rows.entries[row, :count])


def test_an_entry_holds_column_and_value_by_hand() -> None:
    # bf16 of 1.5 is 0x3FC0; column 65535 is 0xFFFF.
    word = entry(torch.tensor([65535]), torch.tensor([1.5]))
    assert word.item() & 0xFFFFFFFF == 0x3FC0FFFF
    assert entry_columns(word).item() == 65535
    assert entry_values(word).item() == 1.5


def test_joined_gate_and_up_give_the_same_dense_result() -> None:
    x, weights = layer(4, 64, 128, 0.0)
    assert_close("fused", ffn(x, FusedWeights.of(weights), "dense"), reference.ffn(x, weights), DTYPE)


def test_by_frequency_the_most_frequent_neurons_come_first_and_the_layer_stays_the_same() -> None:
    x, weights = layer(4, 64, 192, -1.0)
    frequency = torch.zeros(192)
    frequency[100:164] = torch.linspace(0.9, 0.1, 64)
    ordered = weights.by_frequency(frequency)
    assert torch.equal(ordered.down[:64], weights.down[100:164])
    assert torch.equal(ordered.gate[64:], torch.cat([weights.gate[:100], weights.gate[164:]]))
    assert_close("ordered", reference.ffn(x, ordered), reference.ffn(x, weights), torch.float32)


def test_the_hot_neurons_are_right_in_any_order_and_number() -> None:
    x, weights = layer(9, 64, 320, -0.5)
    exact = reference.ffn(x, weights)
    for hot in (64, 128, 256):
        out = ffn(x, weights, "hot_cold", replace(SMALL, hot=hot))
        assert_close(f"hot {hot}", out, exact, torch.bfloat16)


def test_neuron_order_does_not_matter() -> None:
    x, weights = layer(4, 64, 192, -1.0)
    order = torch.randperm(192, generator=torch.Generator().manual_seed(2)).to(DEVICE)
    assert_close("permuted", ffn(x, weights.permuted(order), "twell", SMALL), reference.ffn(x, weights), torch.bfloat16)


def test_wrong_arguments_are_named() -> None:
    x, weights = layer(4, 64, 128, 0.0)
    with pytest.raises(KernelRequirementError, match=r"path is 'twel', accepted are dense, twell"):
        ffn(x, weights, "twel")  # type: ignore[arg-type]
    with pytest.raises(KernelRequirementError, match="path 'hot_cold' does not take FusedWeights"):
        ffn(x, FusedWeights.of(weights), "hot_cold")
    with pytest.raises(KernelRequirementError, match=r"x has shape \[4, 32\], must be \[any, 64\]"):
        ffn(x[:, :32].contiguous(), weights, "twell")
    with pytest.raises(KernelRequirementError, match="F is 100, must be a multiple of 64 up to 65536"):
        FfnWeights(*(torch.zeros(100, 64) for _ in range(3)))
    with pytest.raises(KernelRequirementError, match="65 tokens, must be 1 to 64"):
        ffn(torch.zeros(65, 64, dtype=DTYPE, device=DEVICE), weights, "decode")
