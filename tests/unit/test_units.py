"""Quantities: pint is the oracle wherever it knows the unit."""

import math

import pint
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError

from sparsesim import units

REGISTRY = pint.UnitRegistry()
PINT = {"time": "second", "frequency": "hertz", "power": "watt", "energy": "joule"}


@pytest.mark.parametrize(
    ("dimension", "unit"),
    [(d, u) for d in PINT for u in units.DIMENSIONS[d] if u not in ("µs", "d", "µJ", "µW", "KHz", "KW", "KJ")],
)
def test_units_agree_with_pint(dimension: str, unit: str) -> None:
    expected = REGISTRY.Quantity(3.5, unit).to(PINT[dimension]).magnitude
    assert units.parse(f"3.5 {unit}", dimension) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("text", "dimension", "value"),
    [
        ("3.35 TB/s", "bandwidth", 3.35e12),
        ("400 Gbit/s", "bandwidth", 50e9),
        ("80 GiB", "bytes", 85_899_345_920),
        ("80 GB", "bytes", 80e9),
        ("10 pJ/bit", "energy per byte", 80e-12),
        ("989 TFLOP/s", "compute", 989e12),
        ("2.5 USD/h", "price", 2.5 / 3600),
        ("300 gCO2e/kWh", "carbon intensity", 300 / 3.6e6),
        ("1e3 tok", "tokens", 1000),
    ],
)
def test_hand_computed_values(text: str, dimension: str, value: float) -> None:
    assert units.parse(text, dimension) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("wrong", [3.35, 700, True, None, "700", "700 volts", "W 700", "7 0 W"])
def test_what_has_no_right_unit_names_the_accepted_ones(wrong: object) -> None:
    with pytest.raises(ValueError, match="700 W"):
        units.parse(wrong, "power")


@given(
    st.sampled_from(["time", "bytes", "bandwidth", "power", "energy per byte", "rate", "price"]),
    st.floats(1e-9, 1e15, allow_subnormal=False),
)
def test_what_is_shown_reads_back(dimension: str, value: float) -> None:
    assert math.isclose(units.parse(units.show(value, dimension, None), dimension), value, rel_tol=1e-12)


class Bounded(BaseModel):
    """A field with a default and a bound, one without a default, one that may be missing."""

    wait: units.Seconds = Field(0.0, ge=0)
    rate: units.PerSecond = Field(gt=0)
    cap: units.Watts | None = Field(None, gt=0)


@pytest.mark.parametrize("wrong", [{"wait": "-1 s"}, {"rate": "0 /s"}, {"cap": "-5 W"}])
def test_bounds_of_a_field_hold_for_the_value_inside(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="greater than"):
        Bounded.model_validate({"rate": "1 /s", **wrong})
    assert Bounded.model_validate({"rate": "1 /s", "wait": "0 s"}).wait == 0


def test_what_is_written_is_as_short_as_what_was_read() -> None:
    assert units.show(units.parse("1979 TFLOP/s", "compute"), "compute", None) == "1.979 PFLOP/s"
    assert units.show(units.parse("81559 MiB", "bytes"), "bytes", None) == "85.520809984 GB"
