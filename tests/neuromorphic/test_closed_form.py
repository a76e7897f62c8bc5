"""Events of a token and the closed form: hand-counted on two cores, and properties on a real layer."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesim.cost.neuromorphic import everywhere, load_densities
from sparsesim.cost.neuromorphic.closed_form import TokenCost, token_cost
from sparsesim.cost.neuromorphic.densities import Phase
from sparsesim.cost.neuromorphic.events import layout, mesh_load, steps
from sparsesim.cost.neuromorphic.machine import Machine, machine
from sparsesim.cost.neuromorphic.mapping import map_stages
from sparsesim.cost.neuromorphic.stages import Projection, Stage, stages_of
from sparsesim.hardware.device.neuromorphic import Neuromorphic
from sparsesim.hardware.profile import load_device
from sparsesim.model import load_model

NAMES = ("i", "f", "g", "o", "up", "down")


def loihi(name: str, chips: int = 1) -> Machine:
    device = load_device(name)
    assert isinstance(device, Neuromorphic)
    return machine(device.with_chips(chips))


def two_projections(density: float = 1.0, communication: float = 1.0) -> tuple[Stage, ...]:
    """10 inputs to 4 neurons to 10 neurons: one core each."""
    phases = ((Projection("up", 10, 4, density),), (Projection("down", 4, 10, density),))
    return (Stage("layer 0", phases, 10, communication),)


def cost_370m(density: float, phase: Phase, m: Machine) -> TokenCost:
    stages = stages_of(load_model("mmfreelm-370m"), everywhere(density, NAMES), phase)
    return token_cost(map_stages(stages, m), m, phase)


def test_loihi_1_events_of_two_cores_by_hand() -> None:
    """Published table: synop 3.8 ns, receive 16 ns, spike 30 ns, message 5.1 ns, neuron 6.0 + 3.7 ns."""
    m = loihi("loihi1")
    first, second, last = steps(map_stages(two_projections(), m).stages[0], m, None)
    assert first.generation_s[0] == pytest.approx(10 * (6.0 + 3.7 + 30.0 + 5.1) * 1e-9)
    assert first.processing_s[0] == pytest.approx(10 * (16.0 + 4 * 3.8) * 1e-9)
    assert second.processing_s[1] == pytest.approx(4 * (16.0 + 10 * 3.8) * 1e-9)
    assert first.events["synop"] == 40
    assert second.events["synop"] == 40
    assert last.events["message"] == 10


def test_loihi_1_interval_of_two_cores_by_hand() -> None:
    """Both cores on one tile: the busier core's sum over the three steps, and the barrier of one tile, 0.6 us."""
    m = loihi("loihi1")
    found = token_cost(map_stages(two_projections(), m), m, "prefill")
    sending = 10 * (9.7 + 35.1) + 4 * (9.7 + 35.1)  # entry neurons and the four of `up` live on core 0
    result = 10 * 9.7 + 10 * 35.1  # the ten of `down`, on core 1, send the layer's result
    receiving = 10 * (16.0 + 4 * 3.8) + 10 * 16.0, 4 * (16.0 + 10 * 3.8)
    assert found.interval_s == pytest.approx(max(sending, result, *receiving) * 1e-9 + 0.6e-6)
    assert found.latency_s == pytest.approx(3 * found.interval_s)


def test_loihi_1_energy_of_two_cores_by_hand() -> None:
    m = loihi("loihi1")
    found = token_cost(map_stages(two_projections(), m), m, "prefill")
    assert found.energy_j["synop"] == pytest.approx(80 * 35.5e-12)
    neurons = 24 * 51.2e-12 + 24 * 21.6e-12 + 24 * 69.3e-12
    assert found.energy_j["neuron"] == pytest.approx(neurons)
    assert found.energy_j["message"] == pytest.approx(24 * 111e-12)
    assert found.energy_j["hop"] == 0.0
    assert found.energy_j["static"] == pytest.approx(30e-3 * found.interval_s)


def test_messages_take_the_mesh_column_by_column_then_row_by_row() -> None:
    """A message from tile (0, 0) to tile (2, 1) passes two links east and one south."""
    m = loihi("loihi1")
    stages = (Stage("layer 0", ((Projection("up", 1024, 1024 * 41, 1.0),),), 1024, 1.0),)
    where = layout(map_stages(stages, loihi("loihi2", 4)).stages[0], m)
    import numpy as np

    flow = np.zeros((len(where.chip), len(where.chip)))
    source = int(np.flatnonzero((where.column == 0) & (where.row == 0) & (where.chip == 0))[0])
    target = int(np.flatnonzero((where.column == 2) & (where.row == 1) & (where.chip == 0))[0])
    flow[source, target] = 7.0
    links_s, east_west, north_south = mesh_load(flow, where, m)
    assert (east_west, north_south) == (14.0, 7.0)
    assert sorted(links_s[links_s > 0]) == pytest.approx([7 * 4.1e-9, 7 * 4.1e-9, 7 * 6.5e-9])


@given(low=st.floats(0.05, 0.95), more=st.floats(0.01, 0.05), phase=st.sampled_from(["prefill", "generate"]))
@settings(max_examples=12, deadline=None)
def test_more_active_inputs_are_never_faster_nor_cheaper(low: float, more: float, phase: Phase) -> None:
    m = loihi("loihi2", 24)
    sparse, denser = cost_370m(low, phase, m), cost_370m(low + more, phase, m)
    assert sparse.interval_s <= denser.interval_s
    assert sparse.dynamic_j <= denser.dynamic_j


@pytest.mark.parametrize("phase", ["prefill", "generate"])
def test_synops_are_the_models_executed_multiply_adds(phase: Phase) -> None:
    m = loihi("loihi2", 24)
    densities = load_densities("mmfreelm-370m-lambda2")
    stages = stages_of(load_model("mmfreelm-370m"), densities, phase)
    found = token_cost(map_stages(stages, m), m, phase)
    assert found.energy_j["synop"] == pytest.approx(sum(s.active_macs for s in stages) * m.energy_j["synop"])


def test_pipelined_steps_are_set_by_the_slowest_layer_and_generate_adds_them_up() -> None:
    m = loihi("loihi2", 24)
    for phase, combine in (("prefill", max), ("generate", sum)):
        found = cost_370m(0.5, phase, m)  # type: ignore[arg-type]
        assert found.interval_s == pytest.approx(combine(s.time_s for s in found.stages))


def test_faster_links_and_barriers_cannot_slow_a_token() -> None:
    m = loihi("loihi2", 24)
    faster = replace(m, link_s=m.link_s / 2, barriers=tuple((n, s / 2) for n, s in m.barriers))
    for phase in ("prefill", "generate"):
        assert cost_370m(0.5, phase, faster).interval_s < cost_370m(0.5, phase, m).interval_s  # type: ignore[arg-type]


def test_barrier_follows_the_published_tiles_and_stays_flat_beyond() -> None:
    m = loihi("loihi1")
    assert [m.barrier_s(n) * 1e6 for n in (1, 2, 4, 29, 32)] == pytest.approx([0.6, 1.0, 1.4, 1.8, 1.8])
    assert m.barrier_s(3) == pytest.approx(1.2e-6)


def test_event_table_with_published_speed_ups_alone_comes_within_a_fifth_of_the_dense_measurement() -> None:
    """Only the link's 30 ns was fitted: Loihi 1's table over the published gains against 6,632 tokens/s on 24 chips."""
    device = load_device("loihi2")
    assert isinstance(device, Neuromorphic)
    m = machine(device, {})
    stages = stages_of(load_model("mmfreelm-370m"), load_densities("mmfreelm-370m-silu"), "prefill")
    found = token_cost(map_stages(stages, m), m, "prefill")
    assert 1 / found.interval_s == pytest.approx(6632, rel=0.2)
