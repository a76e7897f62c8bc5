"""Energy and power: conserved over components, time and bins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesim.metrics.energy import energy_by_component, idle, timeline
from sparsesim.metrics.window import Window, binned
from sparsesim.sim.records import Records


def records_of(steps: list[tuple[float, float, float]], up: float, down: float) -> Records:
    """One replica of 100 W active idle and 50 W idle; steps are (start, end, joules)."""
    start, end, joules = (np.array(column, float) for column in zip(*steps, strict=True))
    zeros = np.zeros(len(steps))
    columns = {"replica": zeros.astype(int), "start_s": start, "end_s": end, "static_j": joules}
    columns |= {"running": zeros, "waiting": zeros, "kv_blocks": zeros}
    replicas = {"replica": np.array([0]), "up_s": np.array([up]), "down_s": np.array([down])}
    replicas |= {"idle_w": np.array([50.0]), "active_idle_w": np.array([100.0])}
    return Records({}, columns, {}, replicas, ("static",), down)


def test_idle_power_before_between_and_long_after_steps() -> None:
    records = records_of([(10.0, 12.0, 1000.0), (15.0, 16.0, 500.0)], 0.0, 46.0)
    found = energy_by_component(records, Window(0.0, 46.0))
    assert found["static"] == 1500.0
    assert found["idle"] == pytest.approx(10 * 50 + 3 * 100 + 10 * 100 + 20 * 50)


def test_the_window_cuts_steps_and_stretches_in_proportion() -> None:
    records = records_of([(10.0, 12.0, 1000.0)], 0.0, 12.0)
    found = energy_by_component(records, Window(5.0, 11.0))
    assert found == pytest.approx({"static": 500.0, "idle": 5 * 50})


def test_the_integral_of_power_is_the_energy_and_components_make_the_total(calm: Records) -> None:
    found = energy_by_component(calm, Window(0.0, calm.end_s))
    power = timeline(calm, bins=137)
    width = power["end_s"] - power["start_s"]
    for name, energy in found.items():
        assert float(width @ power[f"{name}_w"]) == pytest.approx(energy, rel=1e-9, abs=1e-9)
    parts = sum(power[f"{name}_w"] for name in found)
    assert power["total_w"] == pytest.approx(parts)


def test_a_simulated_run_has_the_energy_of_its_step_model(calm: Records) -> None:
    found = energy_by_component(calm, Window(0.0, calm.end_s))
    busy = float(np.sum(calm.steps["end_s"] - calm.steps["start_s"]))
    assert found["compute"] == pytest.approx(300 * busy)
    assert found["static"] == pytest.approx(200 * busy)
    assert found["link"] == 0.0
    spare = 2 * calm.end_s - busy
    assert 70 * spare <= found["idle"] <= 120 * spare
    assert idle(calm).energy_j.min() > 0


intervals = st.lists(st.tuples(st.floats(0, 90), st.floats(0, 9), st.floats(0, 100)), min_size=1, max_size=20)


@given(intervals, st.integers(1, 50))
@settings(max_examples=60, deadline=None)
def test_binning_conserves_and_agrees_with_the_window(table: list[tuple[float, float, float]], bins: int) -> None:
    start = np.array([row[0] for row in table])
    end = start + np.array([row[1] if row[1] > 1e-6 else 0.0 for row in table])
    amounts = np.array([row[2] for row in table])
    edges = np.linspace(0, 100, bins + 1)
    found = binned(start, end, amounts, edges)
    assert found.sum() == pytest.approx(amounts.sum(), rel=1e-9, abs=1e-6)
    wide = end > start
    first = Window(edges[0], edges[1]).shares(start[wide], end[wide]) @ amounts[wide]
    points = amounts[~wide & (start < edges[1])].sum() if bins > 1 else amounts[~wide].sum()
    assert found[0] == pytest.approx(first + points, rel=1e-6, abs=1e-6)
