"""Fits to published rows reach their bounds on what was left out, and the files in the tree are what `fit` makes."""

import json
from pathlib import Path

import pytest

from sparsesim.cost.network import fit
from sparsesim.cost.network.fitted import load_kernels, load_protocol
from sparsesim.cost.network.published import LOW_LATENCY, ONE_SIDED, PATH, data_hash, expert_rows
from sparsesim.errors import InputError
from sparsesim.loading import data_root


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, object]]:
    folder = tmp_path_factory.mktemp("fits")
    return {path.stem: json.loads(path.read_text()) for path in fit.write_all(folder)}


def test_one_sided_kernels_predict_left_out_sizes_and_dtypes_within_12_percent(written: dict[str, dict]) -> None:
    errors = written["gb200-nvl72"]["mean_absolute_error"]
    assert errors["left_out_sizes"] <= 0.12
    assert errors["other_dtypes"] <= 0.12  # bytes per token changed, nothing refitted


def test_low_latency_kernels_predict_a_left_out_ep_size_within_20_percent(written: dict[str, dict]) -> None:
    errors = written["h800-deepep"]["mean_absolute_error"]
    assert {f"left_out_ep{ep}" for ep in (8, 16, 32, 64)} <= set(errors)
    assert errors["left_out"] <= 0.20


def test_published_bus_bandwidths_are_met_within_15_percent(written: dict[str, dict]) -> None:
    residuals = written["h100-nccl"]["residuals"]
    assert len(residuals) == 4
    assert all(abs(row["predicted"] / row["bytes_per_s"] - 1) <= 0.15 for row in residuals)


def numbers(document: dict) -> dict[str, float]:
    figures = {**document.get("kernels", {}), "protocol": document.get("protocol", {})}
    return {f"{op}.{k}": v for op, values in figures.items() for k, v in values.items() if not isinstance(v, str)}


def test_files_in_the_tree_are_what_the_data_give(written: dict[str, dict]) -> None:
    for name, document in written.items():
        kept = json.loads((data_root() / "hwprofiles/fits/network" / f"{name}.json").read_text())
        assert kept["data"] == document["data"] == {"file": PATH, "sha256": data_hash()}
        assert numbers(document) == pytest.approx(numbers(kept), rel=1e-3)


def test_rows_are_read_as_printed() -> None:
    low = {(row.ep, row.op): row for row in expert_rows(LOW_LATENCY)}
    assert len(low) == 8
    assert low[64, "combine"].seconds == pytest.approx(314e-6)
    assert low[8, "dispatch"].token_bytes == 7168 * (1 + 4 / 128) + 16
    sided = [row for row in expert_rows(ONE_SIDED) if row.dtype == "nvfp4"]
    assert [row.token_bytes for row in sided] == [4032.0]  # as the table states


def test_fits_are_found_by_name() -> None:
    dispatch, combine = load_kernels("h800-deepep")
    assert dispatch.mode == combine.mode == "low_latency"
    assert 0.5 < load_protocol("h100-nccl").link_efficiency < 1.0
    with pytest.raises(InputError, match="did you mean h800-deepep"):
        load_kernels("h800-deep")
    with pytest.raises(InputError, match="holds no kernels"):
        load_kernels("h100-nccl")


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        expert_rows(LOW_LATENCY, tmp_path / "none.csv")
