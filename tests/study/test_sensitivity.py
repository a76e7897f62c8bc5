"""Values along an axis, profiles with one figure changed, and indices of a function whose indices are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sparsesim.errors import InputError
from sparsesim.hardware.profile import load_device
from sparsesim.scenario import Scenario
from sparsesim.studies import SensitivityOptions
from sparsesim.study.axes import between, is_range, resolved
from sparsesim.study.sensitivity import _indices, _saltelli, sensitivity
from sparsesim.study.sweep import settings_of


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([1.0, 3.0], 0.5, 2.0),
        ([1, 100], 0.5, 10),
        (["1 /s", "100 /s"], 0.5, "10 /s"),
        (["2 GB/s", "4 GB/s"], 0.25, "2.5 GB/s"),
        (["a", "b", "c"], 0.99, "c"),
        ([True, False], 0.0, True),
        (["1 s", "100 ms"], 0.9, "100 ms"),
    ],
)
def test_a_share_of_an_axis(values: list[Any], share: float, expected: Any) -> None:
    assert between(values, share) == (pytest.approx(expected) if isinstance(expected, float) else expected)


def test_ranges_are_two_numbers_of_one_unit() -> None:
    assert is_range(["1 s", "2 s"])
    assert not is_range(["1 s", "2 ms"])
    assert not is_range([1, 2, 3])


def test_a_hardware_axis_makes_a_profile_with_that_figure_alone_changed(tmp_path: Path, values: dict[str, Any]) -> None:
    scenario = Scenario.of(values)
    made = resolved(scenario, {"hardware.memory.bandwidth": "4 TB/s", "deployment.tp": 2}, tmp_path)
    assert made["deployment.tp"] == 2
    changed, original = load_device(made["deployment.hardware"]), load_device("h100-sxm")
    assert changed.memory.bandwidth.value == 4e12
    assert changed.memory.bandwidth.source.startswith("assumed: varied by a study (was 3.35 TB/s)")
    assert changed.memory.capacity == original.memory.capacity
    assert changed.name == original.name


@pytest.mark.parametrize("path", ["hardware.memory.bandwith", "hardware.memory", "hardware.name"])
def test_a_figure_that_is_none_is_refused(path: str, values: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"study.axes.{path}"):
        resolved(Scenario.of(values), {path: "1 TB/s"}, tmp_path)


def test_sobol_indices_of_a_linear_function() -> None:
    """On f = 2 x + y over the unit square: variances 4/12 and 1/12, so 0.8 and 0.2, no interaction."""
    options = SensitivityOptions(figures=("f",), sobol=True, samples=1024)
    axes = {"x": [0.0, 1.0], "y": [0.0, 1.0]}
    figures = [{"f": 2 * one["x"] + one["y"]} for one in _saltelli(axes, options)]
    found = _indices(axes, figures, options)["f"]
    assert found["x"]["first"] == pytest.approx(0.8, abs=0.02)
    assert found["y"]["total"] == pytest.approx(0.2, abs=0.02)
    low, high = found["x"]["first_interval"]
    assert low < 0.8 < high


def test_the_tornado_is_widest_where_the_figure_follows_most(values: dict[str, Any], tmp_path: Path) -> None:
    """Decoding one sequence streams the weights: bandwidth moves its time, the links of one device do not."""
    values["workload"] = {"kind": "static", "phase": "decode", "batch": 1, "context": "512 tok"}
    axes = {"hardware.nic.bandwidth": ["25 GB/s", "100 GB/s"], "hardware.memory.bandwidth": ["2 TB/s", "5 TB/s"]}
    study = {"kind": "sensitivity", "axes": axes, "options": {"figures": ["step_s"]}}
    found = sensitivity(Scenario.of({**values, "study": study}), tmp_path, jobs=1)["tornado"]["step_s"]
    first, second = found["bars"]
    assert first["axis"] == "hardware.memory.bandwidth"
    assert first["figures"][0] > found["base"] > first["figures"][1]
    assert second["low"] == second["high"] == found["base"]


def test_a_figure_that_no_summary_has_is_named(values: dict[str, Any], tmp_path: Path) -> None:
    study = {"kind": "sensitivity", "axes": {"deployment.tp": [2]}, "options": {"figures": ["speed"]}}
    with pytest.raises(InputError, match=r"no figure .speed..*tpot_s\.mean"):
        sensitivity(Scenario.of({**values, "study": study}), tmp_path, jobs=1)


def test_a_latin_hypercube_has_one_point_in_every_stratum(values: dict[str, Any]) -> None:
    axes = {"slo.percentile": [1.0, 9.0], "simulation.seed": [0, 7]}
    options = {"sampling": "latin", "samples": 8, "seed": 3}
    every = list(settings_of(Scenario.of({**values, "study": {"kind": "sweep", "axes": axes, "options": options}})))
    assert sorted(int(one["slo.percentile"]) for one in every) == list(range(1, 9))
    assert all(0 <= one["simulation.seed"] <= 7 for one in every)
