"""The CUDA C++ kernels against the reference on a Hopper GPU; their build errors everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sparsesim import laws
from sparsesim.kernels.common import native
from sparsesim.kernels.common.checks import assert_close, poisoned
from sparsesim.kernels.common.requirements import KernelRequirementError
from sparsesim.kernels.twell import hopper, reference
from sparsesim.kernels.twell.format import TwellFormat
from sparsesim.kernels.twell.synthetic import SyntheticLayer, synthetic_layer, tokens

on_hopper = pytest.mark.skipif(native.hopper_missing() is not None, reason=str(native.hopper_missing()))


def layer(width: int, neurons: int, nnz: float) -> SyntheticLayer:
    law = laws.ActivationLaw(laws.zipf_frequencies(neurons, nnz))
    return synthetic_layer(law, width, torch.bfloat16, "cuda", seed=1)


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize(("rows", "width", "neurons"), [(1, 128, 64), (257, 192, 1088), (1000, 2048, 5632)])
def test_packed_words_hold_the_references_entries(rows: int, width: int, neurons: int) -> None:
    made, form = layer(width, neurons, neurons / 100), TwellFormat()
    x = tokens(made, rows, 2)
    words = poisoned(rows, form.row_words(neurons), dtype=torch.int32, device="cuda")
    hopper.pack_gate(x, made.weights, form, words)
    again = hopper.pack_gate(x, made.weights, form, torch.clone(words))
    assert torch.equal(words, again.words)
    gated, overflowed = reference.unpack(words.cpu(), neurons, form)
    kept = ~overflowed
    assert_close("gate", gated[kept], reference.gate(x, made.weights).cpu()[kept], torch.bfloat16)


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize(("rows", "hot"), [(1, 128), (300, 256), (1000, 512), (4096, 256)])
@pytest.mark.parametrize("apart", [False, True])
def test_hot_neurons_are_dense_and_the_words_hold_the_rest(rows: int, hot: int, apart: bool) -> None:
    made, form = layer(2048, 5632, 29.0), TwellFormat()
    x = tokens(made, rows, 2)
    packed = hopper.pack_gate(x, made.weights, form, None, hot, apart)
    gated, overflowed = reference.unpack(packed.words.cpu(), 5632, form)
    kept, exact = ~overflowed, reference.gate(x, made.weights).cpu()
    assert not gated[:, :hot].any()
    assert_close("cold", gated[kept, hot:], exact[kept, hot:], torch.bfloat16)
    projected = x.float() @ made.weights.up[:hot].float().T
    assert_close("hidden", packed.hidden, exact[:, :hot].to(x.device).float() * projected, torch.bfloat16)
    if apart:
        assert_close("projected", packed.projected, projected, torch.bfloat16)


@pytest.mark.gpu
@on_hopper
@pytest.mark.parametrize("count", [1, 2, 3, 5, 8])
def test_decode_equals_the_dense_layer(count: int) -> None:
    made = layer(2048, 5632, 29.0)
    x = tokens(made, count, 3)
    out = hopper.decode_ffn(x, made.weights)
    assert_close("decode", out, reference.ffn(x, made.weights), torch.bfloat16)
    assert torch.equal(out, hopper.decode_ffn(x, made.weights))


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = tmp_path / "kernel.cu"
    source.write_text("")
    monkeypatch.setenv("SPARSESIM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "compiler", lambda: None)
    with pytest.raises(KernelRequirementError, match=r"kernel\.cu: no nvcc is found .*CUDACXX.*Triton path"):
        native.library((source,))


def test_a_failed_build_gives_the_compilers_words_and_leaves_no_library(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source, compiler, cache = tmp_path / "kernel.cu", tmp_path / "nvcc", tmp_path / "cache"
    source.write_text("nonsense")
    compiler.write_text("#!/bin/sh\necho 'error: expected a declaration' >&2\nexit 2\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("SPARSESIM_CACHE", str(cache))
    monkeypatch.setenv("CUDACXX", str(compiler))
    with pytest.raises(KernelRequirementError, match=r"nvcc failed\nerror: expected a declaration"):
        native.library((source,))
    assert list(cache.iterdir()) == []


@pytest.mark.skipif(native.hopper_missing() is None, reason="a Hopper GPU is here")
def test_without_a_hopper_gpu_the_error_names_the_way_out() -> None:
    with pytest.raises(KernelRequirementError, match=r"pack_gate: .*; use the Triton path instead"):
        hopper._library("pack_gate")
