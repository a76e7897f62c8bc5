"""Layers on cores and chips: what fits, how many chips and why, and what the user is told otherwise."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesim.cost.neuromorphic import everywhere, load_densities, neuromorphic_estimate
from sparsesim.cost.neuromorphic.claims import figure
from sparsesim.cost.neuromorphic.events import steps
from sparsesim.cost.neuromorphic.machine import Machine, machine
from sparsesim.cost.neuromorphic.mapping import map_stages
from sparsesim.cost.neuromorphic.stages import Projection, Stage, stages_of
from sparsesim.errors import DoesNotFitError, InputError
from sparsesim.hardware.device.neuromorphic import Neuromorphic
from sparsesim.hardware.profile import load_device
from sparsesim.model import load_model


def device(name: str = "loihi2") -> Neuromorphic:
    found = load_device(name)
    assert isinstance(found, Neuromorphic)
    return found


def chips(number: int) -> Machine:
    return machine(device().with_chips(number))


def one_stage(d_in: int, d_out: int, bits: int = 8) -> tuple[Stage, ...]:
    return (Stage("layer 0", ((Projection("up", d_in, d_out, weight_bits=bits),),), d_in, 1.0),)


def test_370m_takes_a_chip_a_layer_as_published() -> None:
    stages = stages_of(load_model("mmfreelm-370m"), load_densities("mmfreelm-370m-silu"), "prefill")
    mapping = map_stages(stages, chips(24))
    assert mapping.chips == figure("sp_chips")
    assert "24 layers need 24 chips: one layer a chip, because" in mapping.why
    assert "12.85 MB" in mapping.why


def test_2_7b_needs_four_chips_a_layer() -> None:
    """79.3 MB of synapses over 25.2 MB a chip (128 x 192 KiB) is 3.15 chips."""
    stages = stages_of(load_model("mmfreelm-2.7b"), load_densities("mmfreelm-2.7b-silu"), "prefill")
    assert stages[0].macs == 79_298_560
    assert math.ceil(stages[0].macs / (128 * 192 * 1024)) == 4
    with pytest.raises(DoesNotFitError, match=r"32 layers need 128 chips: 4 chips a layer.*ask for 128 chips"):
        map_stages(stages, chips(24))
    assert map_stages(stages, chips(128)).chips == 128


@given(d_in=st.integers(16, 6000), d_out=st.integers(16, 9000), bits=st.sampled_from([2, 8, 16, 32]))
@settings(max_examples=60, deadline=None)
def test_no_core_holds_more_than_its_memory_or_neurons(d_in: int, d_out: int, bits: int) -> None:
    m = chips(100)
    mapping = map_stages(one_stage(d_in, d_out, bits), m)
    (mapped,) = mapping.stages[0].projections
    assert mapped.outputs.sum() == d_out
    assert mapped.outputs.max() <= m.neurons
    assert mapped.outputs.max() * d_in * max(bits // 8, 1) <= m.core_bytes


@given(active=st.floats(0.01, 1.0))
@settings(max_examples=20, deadline=None)
def test_spreading_over_all_cores_never_slows_the_busiest(active: float) -> None:
    projections = (Projection("i", 1024, 1024, 1.0), Projection("down", 2816, 1024, active))
    stages = (Stage("layer 0", (projections,), 1024, 1.0),)
    busiest = {
        spread: max(
            p.projection.active_macs / p.cores
            for p in map_stages(stages, chips(1), spread).stages[0].projections  # type: ignore[arg-type]
        )
        for spread in ("memory", "load")
    }
    assert busiest["load"] <= busiest["memory"]
    assert map_stages(stages, chips(1), "load").cores == 128


def test_small_layers_share_a_chip() -> None:
    stages = one_stage(256, 256) * 3
    mapping = map_stages(stages, chips(1))
    assert [s.first_core for s in mapping.stages] == [0, 1, 2]
    assert mapping.chips == 1


def test_a_neuron_wider_than_a_core_fits_nowhere() -> None:
    with pytest.raises(InputError, match=r"layer 0\.up: fits no core of loihi2.*200,00\d.*inputs at most"):
        map_stages(one_stage(200_000, 10), chips(1))


def test_fan_in_of_loihi_1_is_named_with_what_would_work() -> None:
    stages = stages_of(load_model("mmfreelm-2.7b"), load_densities("mmfreelm-2.7b-silu"), "prefill")
    with pytest.raises(InputError, match=r"6,912 inputs, a core takes 4,096 .*loihi2"):
        map_stages(stages, machine(device("loihi1").with_chips(1000)))


def test_weights_wider_than_a_chain_of_synapses_ask_for_quantisation() -> None:
    with pytest.raises(InputError, match=r"weights of 16 bits; loihi1 has 8 at most \(quantise\)"):
        map_stages(one_stage(64, 64, bits=16), machine(device("loihi1")))


def test_batch_on_a_batch_1_device_is_an_error_naming_what_works() -> None:
    model, densities = load_model("mmfreelm-370m"), load_densities("mmfreelm-370m-silu")
    with pytest.raises(InputError, match=r"batch 4: loihi2 holds 1 sequence\(s\) at once \(batch 1 works"):
        neuromorphic_estimate(model, device(), "generate", densities, batch=4)


def test_missing_density_names_the_projection_and_those_there_are() -> None:
    densities = load_densities("mmfreelm-370m-silu")
    known = {name: d for name, d in densities.densities.items() if name != "o"}
    with pytest.raises(InputError, match=r"densities\.o: .*no density for projection 'o' \(it has i, f, g, up"):
        stages_of(load_model("mmfreelm-370m"), densities.model_copy(update={"densities": known}), "prefill")


def test_densities_of_another_model_are_refused() -> None:
    with pytest.raises(InputError, match=r"mmfreelm-370m-silu was measured on mmfreelm-370m"):
        neuromorphic_estimate(
            load_model("mmfreelm-2.7b"), device(), "prefill", load_densities("mmfreelm-370m-silu"), chips=200
        )


def test_attention_needs_a_growing_cache_and_is_refused_once() -> None:
    with pytest.raises(InputError, match="growing key-value cache") as error:
        stages_of(load_model("qwen3-8b"), everywhere(1.0, ("q",)), "prefill")
    assert len(error.value.problems) == 1


def test_unknown_phase_and_method_are_told_with_the_choices() -> None:
    model, densities = load_model("mmfreelm-370m"), load_densities("mmfreelm-370m-silu")
    with pytest.raises(InputError, match=r"unknown phase 'decode'.*generate"):
        neuromorphic_estimate(model, device(), "decode", densities)
    with pytest.raises(InputError, match=r"unknown method 'guess'.*events"):
        neuromorphic_estimate(model, device(), "generate", densities, method="guess")  # type: ignore[arg-type]


def test_a_selective_ssm_maps_too() -> None:
    """Mamba-2 has fixed states and plain projections: with densities for both it runs on enough chips."""
    model = load_model("mamba2-780m").model_copy(update={"precision": load_model("mmfreelm-370m").precision})
    found = neuromorphic_estimate(model, device(), "prefill", everywhere(0.3, ("in", "out")), chips=200)
    assert found.mac_ratio == pytest.approx(0.3)
    assert found.chips > 24


@pytest.mark.parametrize(("name", "published", "cores"), [("s4d-67k", 67e3, "small"), ("s4d-265k", 265e3, "large")])
def test_s4d_has_the_published_parameters_and_needs_no_more_cores_than_the_published_mapping(
    name: str, published: float, cores: str
) -> None:
    """Four layers: A and C of width x state, D and step, a map to twice the width with bias, a norm with bias."""
    model = load_model(name)
    assert sum(b.parameters(model.d_model) * n for b, n in model.blocks) == pytest.approx(published, rel=0.005)
    mapping = map_stages(stages_of(model, load_densities(f"{name}-dense"), "prefill"), chips(1))
    assert mapping.chips == 1
    assert mapping.cores <= figure(f"s4d_cores_{cores}")


def test_the_state_of_an_s4d_layer_is_computed_once_a_token() -> None:
    """64 channels of 64 elements: 4096 updates beside the 64 entry neurons, all before the only projection."""
    m = chips(1)
    stage = map_stages(stages_of(load_model("s4d-67k"), load_densities("s4d-67k-dense"), "prefill"), m).stages[0]
    first, last = steps(stage, m, None)
    assert first.events["neuron_update"] == pytest.approx(64 * 64 + 64)
    assert last.events["neuron_update"] == pytest.approx(128)
