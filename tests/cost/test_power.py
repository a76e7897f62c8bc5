"""Power under a cap."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesim.cost.fitted import load_fit
from sparsesim.cost.kernel import cost_model
from sparsesim.cost.power import (
    PowerModel,
    at_full_clock,
    clock_under_cap,
    fitted_figures,
    one_clock_under_cap,
)
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.hardware.new import write_profile
from sparsesim.hardware.profile import load_device

POWER = PowerModel(100.0, 70.0, 400.0, 1e-10, 1e-10, 1e-9, {"bf16": 1e-12}, 1.0)


def test_a_hand_solved_clock() -> None:
    """All of 1 s computes, 600 J of core energy at full clock, m = 1: P(f) = 100 + 600 f^2 = 400 at f = sqrt(1/2)."""
    assert float(clock_under_cap(1.0, 1.0, 600.0, 0.0, POWER)) == pytest.approx(0.5**0.5, rel=1e-9)


def test_below_the_cap_nothing_happens() -> None:
    assert float(clock_under_cap(1.0, 1.0, 250.0, 40.0, POWER)) == 1.0


@given(
    time=st.floats(1e-4, 1.0),
    part=st.floats(0.05, 1.0),
    core_w=st.floats(0.0, 900.0),
    rest_w=st.floats(0.0, 250.0),
)
def test_power_meets_the_cap_and_both_solvers_agree(time: float, part: float, core_w: float, rest_w: float) -> None:
    core_s, core_j, rest_j = part * time, core_w * time, rest_w * time
    clock = float(clock_under_cap(time, core_s, core_j, rest_j, POWER))
    stretched = time + core_s * (1 / clock - 1)
    watts = POWER.static_w + (core_j * clock**POWER.exponent + rest_j) / stretched
    assert watts <= POWER.cap_w * (1 + 1e-6)
    if POWER.static_w + core_w + rest_w > POWER.cap_w:
        assert clock < 1
        assert one_clock_under_cap(time, core_s, core_j, rest_j, POWER) == pytest.approx(clock, rel=1e-6)


def test_a_lower_cap_is_slower() -> None:
    caps = [PowerModel(100.0, 70.0, cap, 1e-10, 1e-10, 1e-9, {"bf16": 1e-12}, 1.3) for cap in (300.0, 350.0, 500.0)]
    clocks = [float(clock_under_cap(1.0, 0.8, 500.0, 50.0, power)) for power in caps]
    assert clocks == sorted(clocks)
    assert np.all(np.diff(clocks) > 0)


BURST = replace(POWER, burst_cap_w=500.0)


def test_a_hand_solved_burst() -> None:
    """1 s measured, all computing, 800 J at full clock: 100 + 800 c = 500 at c = 1/2, so half a second at full."""
    time, core = at_full_clock(1.0, 1.0, 800.0, 0.0, BURST)
    assert (float(time), float(core)) == pytest.approx((0.5, 0.5))
    # Steady at 400 W: 100 + 800 f / (0.5 / f) = 400 at f = sqrt(3/16), hence 0.5 / f = 1.1547 s: 15 % over the burst.
    clock = float(clock_under_cap(time, core, 800.0, 0.0, BURST))
    assert 0.5 / clock == pytest.approx(1.1547, rel=1e-4)


def test_a_burst_below_its_cap_was_at_full_clock() -> None:
    assert at_full_clock(1.0, 0.7, 350.0, 40.0, BURST) == (1.0, 0.7)
    assert at_full_clock(1.0, 0.7, 900.0, 40.0, POWER) == (1.0, 0.7)


@given(part=st.floats(0.05, 1.0), core_w=st.floats(0.0, 1000.0), rest_w=st.floats(0.0, 200.0))
def test_the_steady_state_is_never_faster_than_the_burst_and_meets_the_cap(
    part: float, core_w: float, rest_w: float
) -> None:
    time, core = at_full_clock(1.0, part, core_w, rest_w, BURST)
    clock = clock_under_cap(time, core, core_w, rest_w, BURST)
    steady = float(time + core * (1.0 / clock - 1.0))
    watts = BURST.static_w + (core_w * float(clock) ** BURST.exponent + rest_w) / steady
    assert steady >= 1.0 - 1e-9
    assert watts <= BURST.cap_w * (1 + 1e-6)


def test_padding_costs_its_share_and_more_than_all_is_no_padding() -> None:
    power = replace(POWER, padding_share=0.4)
    assert float(power.compute_j(1e12, 3e12, "bf16")) == pytest.approx(1.0 + 0.4 * 2.0)
    assert float(power.compute_j(2e12, 1e12, "bf16")) == pytest.approx(1.0)


def edited(profile: str, **energies: float) -> Gpu:
    """A profile with other joules a byte of memory or link."""
    gpu = load_device(profile)
    assert isinstance(gpu, Gpu)
    assert gpu.link is not None
    memory = gpu.energy.memory.model_copy(update={"value": energies.get("memory", gpu.energy.memory.value)})
    link = gpu.link.energy.model_copy(update={"value": energies.get("link", gpu.link.energy.value)})
    return gpu.model_copy(
        update={
            "energy": gpu.energy.model_copy(update={"memory": memory}),
            "link": gpu.link.model_copy(update={"energy": link}),
        }
    )


@pytest.mark.parametrize("profile", ["h100-sxm", "h200-sxm", "a100-sxm"])
def test_an_edited_figure_scales_the_joules_fitted_in_its_place(profile: str) -> None:
    """An option without effect is a bug: half the profile's J/byte are half the fitted J/byte."""
    plain = cost_model(edited(profile)).power
    half = cost_model(edited(profile, memory=60e-12, link=40e-12)).power
    assert half.memory_j_per_byte == pytest.approx(plain.memory_j_per_byte / 2)
    assert half.link_j_per_byte == pytest.approx(plain.link_j_per_byte / 2)
    assert half.static_w == plain.static_w


def test_a_copied_profile_draws_what_its_original_draws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    write_profile("mine", "h100-sxm", tmp_path / "hwprofiles")
    mine, original = load_device("mine"), load_device("h100-sxm")
    assert isinstance(mine, Gpu)
    assert isinstance(original, Gpu)
    assert cost_model(mine).power == cost_model(original).power


def test_fitted_figures_are_no_assumptions() -> None:
    h100 = edited("h100-sxm")
    assert fitted_figures(h100) == {"energy.memory", "link.energy", "energy.compute.bf16", "energy.compute.fp8"}
    assert not fitted_figures(edited("a100-sxm")), "joules of a chip that was not measured stay assumed"


def test_a_fit_remembers_the_figures_that_it_stands_for() -> None:
    of = load_fit("h100-sxm").energy["of"]
    assert of["memory_j_per_byte"] == pytest.approx(120e-12)
    assert of["compute_j_per_flop"] == pytest.approx({"bf16": 0.7e-12, "fp8": 0.4e-12})
