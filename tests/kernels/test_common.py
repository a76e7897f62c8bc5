"""Requirement checks name what is wrong; poison and error bounds catch what they are for."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from sparsesim.kernels.common import checks, provenance, requirements  # noqa: E402


def test_a_missing_gpu_is_named_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    if requirements.gpu_missing() is None:
        requirements.require_gpu("twell")
    else:
        with pytest.raises(requirements.KernelRequirementError, match=r"twell.*TRITON_INTERPRET=1.*reference"):
            requirements.require_gpu("twell")


@pytest.mark.parametrize("value", [0, 96, 65600])
def test_a_size_off_the_grid_is_named(value: int) -> None:
    with pytest.raises(requirements.KernelRequirementError, match=f"F is {value}.*multiple of 64 up to 65536"):
        requirements.require_multiple("twell", "F", value, 64, 65536)


def test_shape_dtype_and_layout_are_checked_in_turn() -> None:
    bf16 = (torch.bfloat16,)
    with pytest.raises(requirements.KernelRequirementError, match=r"x has shape \[2, 3\], must be \[any, 4\]"):
        requirements.require_tensor("k", "x", torch.zeros(2, 3), (None, 4), bf16)
    with pytest.raises(requirements.KernelRequirementError, match=r"float32, accepted are torch\.bfloat16"):
        requirements.require_tensor("k", "x", torch.zeros(2, 4), (None, 4), bf16)
    with pytest.raises(requirements.KernelRequirementError, match="contiguous"):
        requirements.require_tensor("k", "x", torch.zeros(4, 2, dtype=torch.bfloat16).T, (None, 4), bf16)


def test_an_unwritten_element_of_a_poisoned_output_fails_the_check() -> None:
    reference = torch.ones(4, 4)
    out = checks.poisoned(4, 4, dtype=torch.float32, device="cpu")
    out[:3] = 1.0
    with pytest.raises(AssertionError, match="inf exceeds"):
        checks.assert_close("copy", out, reference, torch.float32)
    out[3] = 1.0
    assert checks.assert_close("copy", out, reference, torch.float32) == 0.0


def test_relative_error_by_hand() -> None:
    # |(3, 4.5) - (3, 4)| / |(3, 4)| = 0.5 / 5
    assert checks.relative_error(torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0])) == pytest.approx(0.1)


def test_csv_holds_header_and_the_union_of_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    provenance.write_csv(path, {"device": "none"}, [{"m": 1, "us": 2.0}, {"m": 2, "nnz": 29}])
    assert path.read_text() == "# device: none\nm,us,nnz\n1,2,\n2,,29\n"
