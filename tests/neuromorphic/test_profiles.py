"""Profiles, density files, the fit and the bounds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesim.cost.neuromorphic.bounds import Bounds, in_flight_rate, pipeline_bounds
from sparsesim.cost.neuromorphic.claims import figure
from sparsesim.cost.neuromorphic.densities import Density, density_names, load_densities
from sparsesim.cost.neuromorphic.fit import fit, published_dense
from sparsesim.cost.neuromorphic.machine import FITTED, load_constants, machine
from sparsesim.errors import DoesNotFitError, InputError
from sparsesim.hardware.device import Device
from sparsesim.hardware.device.neuromorphic import Neuromorphic
from sparsesim.hardware.figures import figures
from sparsesim.hardware.profile import load_device
from sparsesim.loading import build, data_root, load_yaml, set_path
from sparsesim.model import load_model

CHIPS = ("loihi1", "loihi2", "northpole", "spinnaker2")


def chip(name: str) -> Neuromorphic:
    device = load_device(name)
    assert isinstance(device, Neuromorphic)
    return device


def test_loihi_1_holds_the_published_event_table() -> None:
    m = machine(chip("loihi1"))
    published_pj = {"synop": 35.5, "neuron_access": 51.2, "neuron_update": 21.6, "spike": 69.3, "message": 111.0}
    published_ns = {"receive": 16.0, "synop": 3.8, "spike": 30.0, "message": 5.1, "hop_north_south": 6.5}
    assert {k: m.energy_j[k] * 1e12 for k in published_pj} == pytest.approx(published_pj)
    assert {k: m.time_s[k] * 1e9 for k in published_ns} == pytest.approx(published_ns)
    assert (m.columns * m.rows, m.cores_per_tile, m.neurons) == (32, 4, 1024)


def test_loihi_2_fit_in_the_tree_is_what_the_command_gives() -> None:
    found = fit(chip("loihi2"), published_dense())
    assert dict(load_constants("loihi2")) == pytest.approx(found, rel=1e-6)


def test_loihi_2_constants_agree_with_the_two_point_arithmetic_of_power_over_rate() -> None:
    """P = P_s + e f on (41.5 /s, 16.81 W) and (6632 /s, 24.54 W): 16.76 W in all, 0.698 W a chip; link 29.5 ns."""
    found = fit(chip("loihi2"), published_dense())
    assert found["static_w"] == pytest.approx(0.698, rel=0.01)
    assert found["link_s"] == pytest.approx(0.2 / 6632 / 1024, rel=1e-9)


def test_fitted_synop_costs_about_four_picojoules() -> None:
    """Derived apart: 4.26 pJ per effective multiply-add, all dynamic energy on them; ours leaves 3 % to messages."""
    m = machine(chip("loihi2"))
    assert m.energy_j["synop"] == pytest.approx(4.26e-12, rel=0.04)
    assert m.time_s["synop"] == pytest.approx(3.8e-9 / 5, rel=0.25)


def test_fit_names_every_constant_with_its_unit_and_data() -> None:
    document = json.loads((data_root() / "hwprofiles" / "fits" / "loihi2.json").read_text())
    assert set(document["constants"]) == set(FITTED)
    assert document["data"]["rows"] == 5
    assert chip("loihi2").calibration.startswith("fitted from publication")


@pytest.mark.parametrize("name", CHIPS)
def test_every_figure_has_a_source_and_the_profile_says_how_it_was_calibrated(name: str) -> None:
    device = chip(name)
    assert device.calibration
    rows = figures(device)
    assert len(rows) > 8
    assert all(row["source"] for row in rows)
    if name != "loihi2":
        assert device.fit is None


def test_a_profile_without_its_mesh_says_so() -> None:
    document = set_path(load_yaml(data_root() / "hwprofiles" / "loihi1.yaml"), "mesh", None, "test")
    with pytest.raises(InputError, match="event-driven device needs mesh"):
        build(Device, document)


def test_barrier_keys_are_numbers_of_tiles() -> None:
    document = load_yaml(data_root() / "hwprofiles" / "loihi1.yaml")
    document = set_path(document, "barrier", {"many": {"value": "1 us", "source": "assumed"}}, "test")
    with pytest.raises(InputError, match="barrier is keyed by numbers of tiles, not 'many'"):
        build(Device, document)


@pytest.mark.parametrize("name", [name for name in density_names() if name.startswith("mmfreelm")])
def test_density_sets_name_their_source_and_cover_the_models_projections(name: str) -> None:
    densities = load_densities(name)
    assert densities.source.startswith("published: arXiv:2608.30439 Table II")
    assert set(densities.densities) == {"i", "f", "g", "o", "up", "down", "head"}
    assert load_densities(densities.reference).model == densities.model


@pytest.mark.parametrize("name", ["I", "F", "G", "O", "Up", "Down", "Head"])
def test_lambda_2_densities_are_the_published_sparsities(name: str) -> None:
    density = load_densities("mmfreelm-370m-lambda2").of(0, name.lower()).mean
    assert 100 * (1 - density) == pytest.approx(figure(f"sp_act_l2_{name}"), abs=1e-9)


def test_a_histogram_of_densities_has_its_mean_and_draws_from_it() -> None:
    density = Density(densities=(0.1, 0.5), counts=(3.0, 1.0))
    assert density.mean == pytest.approx(0.2)
    drawn = density.draw(4000, np.random.default_rng(0))
    assert set(drawn) == {0.1, 0.5}
    assert drawn.mean() == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.2, "density 1.2 is outside 0 to 1"),
        ({"densities": [0.1], "counts": [1, 2]}, "1 densities but 2 counts"),
        ({"densities": [0.1], "counts": [0]}, "not all 0"),
    ],
)
def test_a_faulty_density_says_what_is_wrong(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Density.model_validate(value)


def test_a_layer_may_have_densities_of_its_own() -> None:
    whole = load_densities("mmfreelm-370m-lambda2")
    own = whole.model_copy(update={"layers": {17: {"i": Density.model_validate(0.9)}}})
    assert (own.of(17, "i").mean, own.of(16, "i").mean) == (0.9, pytest.approx(0.381))
    assert own.of(17, "f").mean == pytest.approx(0.244)


def north_pole(context: float = 2048.0, kv: str = "int8", name: str = "northpole", dtype: str = "int4") -> Bounds:
    model = load_model("northpole-3b")
    return pipeline_bounds(model, chip(name), dtype, kv_dtype=kv, head_chips=2, context_tok=context)


def test_northpole_bounds_lie_above_what_was_published() -> None:
    found = north_pole()
    assert found.tok_per_s > figure("np_tput")
    assert found.power_w > figure("np_power")
    assert found.latency_s < figure("np_lat") * 1e-3


def test_northpole_chip_time_by_hand() -> None:
    """218.1M weights of a layer at 4 bits over 13 TB/s: 8.39 us, far above the 1.05 us of its operations."""
    weights = 4096 * 4096 * 2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
    found = north_pole()
    assert found.weight_bytes == pytest.approx(weights / 2, rel=1e-3)
    assert found.chip_s == pytest.approx(weights / 2 / 13e12, rel=1e-3)
    assert found.bound == "memory"
    assert found.latency_s == pytest.approx(16 * found.chip_s)


def test_published_rate_and_latency_are_28_sequences_in_flight() -> None:
    """28,356 tokens/s of 28 sequences is 0.987 ms a token each: below the published 1 ms, as it must be."""
    assert in_flight_rate(28, 28 / 28_356) == pytest.approx(figure("np_tput"))
    assert in_flight_rate(28, 1e-3) <= figure("np_tput")


def test_28_sequences_leave_room_for_2000_tokens_of_8_bit_cache() -> None:
    """(224 - 109.1) MB over 28 sequences of 2 x 8 x 128 bytes a token."""
    free = 224e6 - north_pole().weight_bytes
    assert north_pole().max_context_tok == pytest.approx(free / (28 * 2 * 8 * 128), rel=1e-3)
    assert north_pole(kv="int4").max_context_tok == pytest.approx(2 * north_pole().max_context_tok)


@given(context=st.floats(1, 1e6))
@settings(max_examples=10, deadline=None)
def test_longer_contexts_never_raise_the_bound(context: float) -> None:
    assert north_pole(context * 2).tok_per_s <= north_pole(context).tok_per_s * (1 + 1e-12)


def test_a_model_too_large_for_the_cards_is_refused_in_bytes() -> None:
    with pytest.raises(DoesNotFitError, match=r"would hold .* MB of int4 weights .*northpole has 224 MB"):
        pipeline_bounds(
            load_model("llama-3.1-70b"), chip("northpole"), "int4", kv_dtype="int8", head_chips=2, context_tok=1.0
        )


def test_bounds_and_events_each_name_the_other_for_the_wrong_chip() -> None:
    with pytest.raises(InputError, match="event-driven"):
        north_pole(name="loihi2")
    with pytest.raises(InputError, match="not event-driven"):
        machine(chip("northpole"))
    with pytest.raises(InputError, match="does not compute in 'fp8'"):
        north_pole(dtype="fp8")
