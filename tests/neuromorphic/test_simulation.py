"""Messages through cores with queues: equal to the closed form where nothing waits, slower where something does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sparsesim.cost.neuromorphic import Density, load_densities
from sparsesim.cost.neuromorphic.closed_form import token_cost
from sparsesim.cost.neuromorphic.densities import Phase
from sparsesim.cost.neuromorphic.machine import Machine, machine
from sparsesim.cost.neuromorphic.mapping import Mapping, map_stages
from sparsesim.cost.neuromorphic.stages import Projection, Stage, stages_of
from sparsesim.hardware.device.neuromorphic import Neuromorphic
from sparsesim.hardware.profile import load_device
from sparsesim.model import load_model
from sparsesim.sim.neuromorphic import simulate_neuromorphic


def loihi(name: str, chips: int = 24) -> Machine:
    device = load_device(name)
    assert isinstance(device, Neuromorphic)
    return machine(device.with_chips(chips))


def model_370m(densities: str, phase: Phase, m: Machine) -> Mapping:
    return map_stages(stages_of(load_model("mmfreelm-370m"), load_densities(densities), phase), m)


def chain(neurons: int = 8) -> tuple[Stage, ...]:
    """`neurons` inputs to as many neurons: one core, every message its own."""
    return (Stage("layer 0", ((Projection("up", neurons, neurons),),), neurons, 1.0),)


def test_one_core_by_hand_when_sending_is_the_slower_side() -> None:
    """Receives never wait: n messages go out every g = 44.8 ns, the last is worked off in p after it."""
    m = loihi("loihi1", 1)
    quick = replace(m, time_s={**m.time_s, "synop": 0.1e-9})
    found = simulate_neuromorphic(map_stages(chain(), quick), quick, "generate", bundle=1.0)
    entry = found.steps[0]
    g, p = (9.7 + 30.0 + 5.1) * 1e-9, (16.0 + 8 * 0.1) * 1e-9
    assert entry.core_s == pytest.approx(8 * g + p)
    assert entry.longest_queue <= 1


def test_one_core_by_hand_when_receiving_is_the_slower_side() -> None:
    """The first message comes after g, then the core is never idle: g + n p, and the queue grows."""
    m = loihi("loihi1", 1)
    slow = replace(m, time_s={**m.time_s, "synop": 50e-9})
    found = simulate_neuromorphic(map_stages(chain(), slow), slow, "generate", bundle=1.0)
    g, p = (9.7 + 30.0 + 5.1) * 1e-9, (16.0 + 8 * 50.0) * 1e-9
    assert found.steps[0].core_s == pytest.approx(g + 8 * p)
    assert found.steps[0].longest_queue > 1


@pytest.mark.parametrize("phase", ["prefill", "generate"])
@pytest.mark.parametrize(("densities", "bundle"), [("mmfreelm-370m-silu", 16.0), ("mmfreelm-370m-lambda2", 4.0)])
def test_agrees_with_the_closed_form_on_the_370m_model(phase: Phase, densities: str, bundle: float) -> None:
    m = loihi("loihi2")
    mapping = model_370m(densities, phase, m)
    closed = token_cost(mapping, m, phase).interval_s
    assert simulate_neuromorphic(mapping, m, phase, bundle=bundle).interval_s == pytest.approx(closed, rel=0.015)


def test_finer_bundles_come_closer_to_the_closed_form_from_above() -> None:
    m = loihi("loihi2")
    mapping = model_370m("mmfreelm-370m-lambda2", "prefill", m)
    closed = token_cost(mapping, m, "prefill").interval_s
    coarse, fine = (simulate_neuromorphic(mapping, m, "prefill", bundle=b).interval_s for b in (128.0, 16.0))
    assert closed <= fine <= coarse


def test_a_busy_link_makes_messages_wait_and_its_load_bounds_the_step() -> None:
    m = loihi("loihi2")
    slow = replace(m, time_s={**m.time_s, "hop_east_west": 50 * m.time_s["hop_east_west"]})
    mapping = model_370m("mmfreelm-370m-lambda2", "prefill", slow)
    found = simulate_neuromorphic(mapping, slow, "prefill", bundle=64.0)
    step = found.steps[0]
    busiest = max(step.links_s.values())
    load = token_cost(mapping, slow, "prefill").stages[0]
    assert load.bound == "mesh"
    assert busiest == pytest.approx(load.mesh_s, rel=1e-9)
    assert step.core_s >= busiest
    assert found.interval_s > simulate_neuromorphic(mapping, m, "prefill", bundle=64.0).interval_s


def test_receiving_time_is_conserved() -> None:
    """Whatever waits, each core multiplies exactly what the closed form counts."""
    m = loihi("loihi2")
    mapping = model_370m("mmfreelm-370m-lambda2", "prefill", m)
    step = simulate_neuromorphic(mapping, m, "prefill", bundle=64.0).steps[0]
    assert step.receiving_s.max() == pytest.approx(token_cost(mapping, m, "prefill").stages[0].core_s, rel=1e-9)


def test_drawn_activity_makes_the_slowest_layer_slower_than_the_mean_and_repeats_by_seed() -> None:
    m = loihi("loihi2")
    mapping = model_370m("mmfreelm-370m-lambda2", "prefill", m)
    mapping = replace(mapping, stages=mapping.stages[:6])
    drawn = [simulate_neuromorphic(mapping, m, "prefill", tokens=1, bundle=128.0, seed=7).interval_s for _ in range(2)]
    assert drawn[0] == drawn[1]
    mean = simulate_neuromorphic(mapping, m, "prefill", bundle=128.0).interval_s
    assert mean < drawn[0] < 1.2 * mean


def test_a_prompt_takes_a_step_a_token_after_the_pipeline_has_filled() -> None:
    m = loihi("loihi2")
    mapping = model_370m("mmfreelm-370m-lambda2", "prefill", m)
    found = simulate_neuromorphic(mapping, m, "prefill", tokens=500)
    assert found.total_s == pytest.approx((500 + 24 * 5 - 1) * found.interval_s)
    assert np.isclose(found.interval_s, max(s.time_s for s in found.steps))


def test_a_histogram_of_densities_makes_the_slowest_step_slower_than_its_mean_alone() -> None:
    """Half the tokens at twice the mean density, half at none: what a threshold kernel measured may look like."""
    m = loihi("loihi2")
    even = load_densities("mmfreelm-370m-lambda2")
    wide = Density(densities=(0.0, 2 * even.of(0, "i").mean), counts=(1.0, 1.0))
    spread = even.model_copy(update={"densities": {**even.densities, "i": wide}})
    times = []
    for densities in (even, spread):
        mapping = map_stages(stages_of(load_model("mmfreelm-370m"), densities, "prefill")[:6], m)
        times.append(simulate_neuromorphic(mapping, m, "prefill", tokens=1, bundle=128.0, seed=3).interval_s)
        assert token_cost(mapping, m, "prefill").interval_s < times[-1]
    assert times[1] > 1.3 * times[0]
