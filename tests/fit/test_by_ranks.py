"""Two GPUs say what eight do: exactly where the form is right, and within bounds of what others published."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sparsesim.calibrate.fit.by_ranks import errors_by_ranks
from sparsesim.cost.forms import FORMS
from sparsesim.errors import InputError
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.hardware.profile import load_device
from sparsesim.loading import data_root
from sparsesim.work import AllGather

PUBLISHED_BOUND = 10.0
"""Percent: the issue asks for 15 from two GPUs."""


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    device = load_device("h100-sxm")
    assert isinstance(device, Gpu)
    return device


def test_published_bandwidths_of_eight_from_two_measured_gpus(gpu: Gpu) -> None:
    """370 GB/s of ring collectives and all-to-all on 8 H100s; nothing of eight GPUs is in the fit."""
    rows = errors_by_ranks(data_root() / "calibration/data/h100-sxm", gpu)
    own = {r["group"]: r for r in rows if r["quantity"] == "published bandwidth" and r["fitted_on"] == "2 GPUs"}
    assert set(own) == {f"{name}.graph, 8 GPUs" for name in ("all_gather", "reduce_scatter", "all_to_all")}
    assert max(row["mape"] for row in own.values()) <= PUBLISHED_BOUND


def folder(place: Path, gpu: Gpu, ranks: tuple[int, ...]) -> Path:
    """All-gathers as the form makes them with other constants than its start, 1 % noise."""
    form = FORMS["all_gather"]
    true = {q.name: q.start for q in form.parameters} | {"a": 7e-6, "f": 2e-5, "h": 1e6, "link": 0.80}
    rng, frames = np.random.default_rng(0), []
    for count in ranks:
        size = 2.0 ** np.arange(10, 31)
        seconds = form.timing(AllGather(gpus=float(count), bytes=size), true, gpu.chip()).time_s
        noisy = np.asarray(seconds) * np.exp(rng.normal(0, 0.01, len(size)))
        frames.append(pd.DataFrame({"op": "all_gather", "gpus": count, "bytes": size, "measured_time_s": noisy}))
    pd.concat(frames).to_csv(place / "collectives.csv", index=False)
    return place


def test_more_ranks_are_predicted_first_and_fitted_then(tmp_path: Path, gpu: Gpu) -> None:
    rows = errors_by_ranks(folder(tmp_path, gpu, (2, 4, 8)), gpu)
    times = {(r["group"], r["fitted_on"]): r["mape"] for r in rows if r["quantity"] == "time"}
    assert set(times) == {
        (f"all_gather.graph, {count} GPUs", fitted) for count in (2, 4, 8) for fitted in ("2 GPUs", "2, 4, 8 GPUs")
    }
    assert times["all_gather.graph, 8 GPUs", "2 GPUs"] < 5.0
    assert times["all_gather.graph, 8 GPUs", "2, 4, 8 GPUs"] < 2.0


def test_a_folder_without_messages_is_named(tmp_path: Path, gpu: Gpu) -> None:
    pd.DataFrame({"op": ["gemm"], "m": [8], "n": [8], "k": [8], "measured_time_s": [1e-5]}).to_csv(
        tmp_path / "gemm.csv", index=False
    )
    with pytest.raises(InputError, match="no table holds messages"):
        errors_by_ranks(tmp_path, gpu)
