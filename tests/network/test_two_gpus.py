"""All-to-all measured on two H100s against the committed fit: what it says of sizes and skews it was not shown."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sparsesim.cost.fitted import ClassFit
from sparsesim.cost.forms import FORMS
from sparsesim.cost.kernel import CostModel, cost_model
from sparsesim.cost.table import read_table
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.hardware.profile import load_device
from sparsesim.loading import data_root
from sparsesim.work import AllToAll

Floats = NDArray[np.float64]
BOUNDS = {"even": 0.10, "uneven": 0.15}


@pytest.fixture(scope="module")
def costs() -> CostModel:
    gpu = load_device("h100-sxm")
    assert isinstance(gpu, Gpu)
    return cost_model(gpu)


@pytest.fixture(scope="module")
def fitted(costs: CostModel) -> ClassFit:
    found = costs.fit.of("all_to_all.graph")
    assert found is not None
    assert found[0] == "all_to_all.graph"
    return found[1]


@pytest.fixture(scope="module")
def measured() -> tuple[AllToAll, Floats, NDArray[Any]]:
    """The rows taken in captured graphs: their op, seconds, and whether even or uneven."""
    table = read_table(data_root() / "calibration/data/h100-sxm/collectives.csv")
    table = table[(table["op"] == "all_to_all") & (table["graph"] == "true")]
    size, skew, seconds = (np.asarray(table[n], dtype=np.float64) for n in ("bytes", "skew", "measured_time_s"))
    op = AllToAll(gpus=2.0, bytes=size, skew=skew, graph=True)
    return op, seconds, np.where(skew > 1.0, "uneven", "even")


def alone(op: AllToAll, fit: ClassFit, costs: CostModel) -> Floats:
    """The form's seconds, without corrections near what was measured."""
    return np.asarray(FORMS["all_to_all"].timing(op, fit.parameters, costs.chip).time_s)


@pytest.mark.parametrize("group", BOUNDS)
def test_the_form_alone_is_within_the_bounds(
    group: str, measured: tuple[AllToAll, Floats, NDArray[Any]], fitted: ClassFit, costs: CostModel
) -> None:
    op, seconds, groups = measured
    own = groups == group
    assert own.sum() >= 18
    assert np.abs(alone(op, fitted, costs) / seconds - 1.0)[own].mean() <= BOUNDS[group]


@pytest.mark.parametrize("group", BOUNDS)
def test_a_row_is_predicted_from_the_others(
    group: str, measured: tuple[AllToAll, Floats, NDArray[Any]], fitted: ClassFit, costs: CostModel
) -> None:
    """Each row's correction from the residuals of all other sizes and skews."""
    op, seconds, groups = measured
    points = FORMS["all_to_all"].coordinates(op)
    corrections = []
    for point in points:
        others = np.abs(fitted.coordinates - point).max(axis=1) > 1e-2
        assert others.sum() >= len(fitted.log_ratio) - 3  # rows of equal size and skew go with it
        left = replace(fitted, coordinates=fitted.coordinates[others], log_ratio=fitted.log_ratio[others])
        corrections.append(float(left.near(point[None])[0][0]))
    error = np.abs(alone(op, fitted, costs) * np.exp(corrections) / seconds - 1.0)
    assert error[groups == group].mean() <= BOUNDS[group]


def test_constants_fitted_on_other_rows_do_as_well(fitted: ClassFit) -> None:
    assert fitted.errors["mape"] <= 100 * BOUNDS["even"]
