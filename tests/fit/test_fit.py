"""Fitting: known constants come back from noisy rows, and left-out layers are predicted as well as the noise lets."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sparsesim.calibrate.fit import fit_folder, write_fit
from sparsesim.calibrate.fit.rows import by_class, measured
from sparsesim.cost.fitted import ClassFit, _read, load_fit
from sparsesim.cost.forms import FORMS
from sparsesim.errors import InputError
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.hardware.profile import load_device
from sparsesim.work import Gemm

DATA = Path(__file__).parents[2] / "calibration" / "data"
LAYERS = np.array([[6144, 4096], [4096, 4096], [28672, 4096], [4096, 14336], [2048, 768], [8192, 8192], [1024, 7168]])
TRUE = {"t0": 5e-6, "peak": 0.72, "bandwidth": 0.85, "k0": 300.0, "beta": 0.3}
NOISE = 0.03


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    device = load_device("h100-sxm")
    assert isinstance(device, Gpu)
    return device


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, gpu: Gpu) -> Path:
    rng = np.random.default_rng(0)
    layer = rng.integers(0, len(LAYERS), 150)
    m = np.round(2 ** rng.uniform(0, 13, 150))
    op = Gemm(m=m, n=LAYERS[layer, 0].astype(float), k=LAYERS[layer, 1].astype(float))
    form = FORMS["gemm"]
    constants = {q.name: q.start for q in form.parameters} | TRUE
    time = form.timing(op, constants, gpu.chip()).time_s * np.exp(rng.normal(0, NOISE, 150))
    place = tmp_path_factory.mktemp("rows")
    rows = pd.DataFrame({"op": "gemm", "m": op.m, "n": op.n, "k": op.k, "dtype": "bf16", "measured_time_s": time})
    rows.to_csv(place / "gemm.csv", index=False)
    return place


@pytest.fixture(scope="module")
def fitted(folder: Path, gpu: Gpu) -> dict:
    return fit_folder(folder, gpu)


def test_constants_come_back(fitted: dict) -> None:
    found = fitted["classes"]["gemm.bf16"]["parameters"]
    for name in ("peak", "bandwidth", "t0"):
        assert found[name] == pytest.approx(TRUE[name], rel=0.06)


def test_left_out_layers_are_as_good_as_the_noise(fitted: dict) -> None:
    errors = fitted["classes"]["gemm.bf16"]["errors"]
    assert errors["form_mape"] < 100 * NOISE * 1.2
    assert 85 <= errors["inside"] <= 95


def test_a_fit_reads_back(fitted: dict, tmp_path: Path) -> None:
    write_fit(fitted, tmp_path / "x.json")
    read = _read(tmp_path / "x.json", "x").classes["gemm.bf16"]
    assert read.rows == 150
    assert read.parameters == fitted["classes"]["gemm.bf16"]["parameters"]


def test_the_correction_fades_without_a_jump() -> None:
    """Near a measured row the correction is its residual, far from all it is none, and between it moves smoothly."""
    rng = np.random.default_rng(1)
    rows = rng.uniform(0, 10, (40, 2))
    fit = ClassFit({}, 0.1, 40, 0.5, rows, np.full(40, 0.2))
    path = rows[0] + np.stack([np.linspace(0, 60, 4000), np.zeros(4000)], axis=1)
    correction, nearest = fit.near(path)
    assert correction[0] == pytest.approx(0.2, rel=1e-6)
    assert abs(correction[-1]) < 1e-9
    assert np.abs(np.diff(correction)).max() < 0.01
    widths = fit.half_widths(nearest)
    assert widths[-1] > widths[0] >= 0.1


def test_a_folder_without_measurements_is_an_error(tmp_path: Path, gpu: Gpu) -> None:
    with pytest.raises(InputError, match="no CSV"):
        fit_folder(tmp_path, gpu)


def test_a_dtype_that_a_fit_leaves_open_is_its_base_s() -> None:
    """H200's rows hold no fp8 product; its joules are then what H100's rows say, not the datasheet's share."""
    own, below = load_fit("h200-sxm").energy["compute_j_per_flop"], load_fit("h100-sxm").energy["compute_j_per_flop"]
    assert "fp8" not in own
    both = load_fit("h200-sxm", "h100-sxm").energy["compute_j_per_flop"]
    assert both == {"bf16": own["bf16"], "fp8": below["fp8"]}


@pytest.mark.parametrize("profile", ["h100-sxm", "h200-sxm"])
def test_an_op_lies_among_the_measured_rows_of_its_class(profile: str) -> None:
    """What places an op are its own columns, as many as the fit's rows have."""
    fit, (samples, _) = load_fit(profile), by_class(measured(DATA / profile))
    for name, own in samples.items():
        if name in fit.classes and len(fit.classes[name].log_ratio):
            for sample in own:
                assert FORMS[sample.op.op].coordinates(sample.op).shape[1] == fit.classes[name].coordinates.shape[1]


def test_a_fit_of_other_columns_is_refused() -> None:
    fit = ClassFit({}, 0.1, 2, 1.0, np.zeros((2, 3)), np.zeros(2))
    with pytest.raises(InputError, match="rows have 3 sizes where the op has 4"):
        fit.near(np.zeros((1, 4)))
