"""Max-min fair flows against hand calculation and against the definition."""

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparsesim.errors import InputError
from sparsesim.sim.network import Flow, FluidNetwork, max_min_rates

NEVER = np.inf


def test_the_textbook_example() -> None:
    """Two links of 10 and 4; flows over the first, both, the second: 2 each on the second, the first flow takes 8."""
    share = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    rates = max_min_rates(share, np.array([10.0, 4.0]), np.full(3, NEVER))
    assert rates == pytest.approx([8.0, 2.0, 2.0])


def test_a_flow_held_by_its_own_ceiling_leaves_the_rest_to_others() -> None:
    rates = max_min_rates(np.array([[1.0, 1.0]]), np.array([10.0]), np.array([3.0, NEVER]))
    assert rates == pytest.approx([3.0, 7.0])


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    links=st.integers(1, 6),
    flows=st.integers(1, 6),
)
def test_no_link_is_exceeded_and_every_flow_has_a_bottleneck(seed: int, links: int, flows: int) -> None:
    rng = np.random.default_rng(seed)
    share = rng.random((links, flows)) * (rng.random((links, flows)) < 0.6)
    share[rng.integers(links, size=flows), np.arange(flows)] = 1.0
    capacity = rng.random(links) + 0.1
    ceiling = np.where(rng.random(flows) < 0.3, rng.random(flows) + 0.01, NEVER)
    rates = max_min_rates(share, capacity, ceiling)
    used = share @ rates
    assert (used <= capacity * (1 + 1e-9)).all()
    for f in range(flows):
        full = (share[:, f] > 0) & (used >= capacity * (1 - 1e-9))
        largest_there = any(rates[f] >= rates[share[at] > 0].max() * (1 - 1e-9) for at in np.flatnonzero(full))
        assert rates[f] >= ceiling[f] * (1 - 1e-9) or largest_there


def run(capacity: list[float], flows: list[tuple[float, Flow]]) -> tuple[list[float], FluidNetwork]:
    env = simpy.Environment()
    network = FluidNetwork(env, np.array(capacity))
    ended = [0.0] * len(flows)

    def send(index: int, start: float, flow: Flow) -> simpy.events.ProcessGenerator:
        yield env.timeout(start)
        yield network.send(flow)
        ended[index] = env.now

    for index, (start, flow) in enumerate(flows):
        env.process(send(index, start, flow))
    env.run()
    return ended, network


def flow(*size: float, least_s: float = 0.0, latency_s: float = 0.0) -> Flow:
    return Flow(np.array(size), least_s, latency_s)


def test_a_late_flow_halves_an_early_one_while_both_run() -> None:
    """10 B at 1 B/s from 0; 3 B from 4: halves until 10, when 3 B of the first are left, which end at 13."""
    ended, network = run([1.0], [(0.0, flow(10.0)), (4.0, flow(3.0))])
    assert ended == pytest.approx([13.0, 10.0])
    assert network.carried_bytes == pytest.approx([13.0])
    assert network.solved == 3  # first starts, second starts, second ends


def test_a_collective_is_held_by_its_busiest_link_and_its_latency_comes_first() -> None:
    ended, _ = run([1.0, 2.0], [(0.0, flow(4.0, 2.0, latency_s=0.5))])
    assert ended == pytest.approx([4.5])
    ended, _ = run([1.0, 2.0], [(0.0, flow(4.0, 2.0, least_s=6.0, latency_s=0.5))])
    assert ended == pytest.approx([6.5])


def test_starts_at_one_instant_are_solved_once() -> None:
    ended, network = run([1.0], [(0.0, flow(1.0)) for _ in range(10)])
    assert ended == pytest.approx([10.0] * 10)
    assert network.solved == 1


def test_an_empty_flow_takes_its_latency() -> None:
    ended, _ = run([1.0], [(1.0, flow(0.0, latency_s=0.25)), (0.0, flow(0.0, least_s=2.0))])
    assert ended == pytest.approx([1.25, 2.0])


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.01, 5), st.floats(0.01, 5)), min_size=1, max_size=6))
def test_every_byte_is_carried_and_a_faster_link_ends_no_later(sizes: list[tuple[float, float, float]]) -> None:
    flows = [(start, flow(a, b)) for start, a, b in sizes]
    ended, network = run([1.0, 1.0], flows)
    faster, _ = run([1.0, 3.0], flows)
    carried: NDArray[np.float64] = np.sum([f.bytes for _, f in flows], axis=0)
    assert network.carried_bytes == pytest.approx(carried)
    assert max(faster) <= max(ended) * (1 + 1e-9)


def test_short_flows_end_although_the_clock_has_run_for_long() -> None:
    """After 1e9 s a clock in doubles moves in steps of 0.1 us: a flow of 1 us must still end, all its bytes carried."""
    ended, network = run([1e9], [(1e9, flow(1e3)), (1e9, flow(2e3)), (0.0, flow(1.0))])
    assert ended[0] - 1e9 == pytest.approx(2e-6, abs=3e-7)
    assert ended[1] - 1e9 == pytest.approx(3e-6, abs=3e-7)
    assert network.carried_bytes == pytest.approx([3001.0])


def test_dead_links_and_flows_of_another_network_are_errors() -> None:
    env = simpy.Environment()
    with pytest.raises(InputError, match="link 1 has no bandwidth"):
        FluidNetwork(env, np.array([1.0, 0.0]))
    with pytest.raises(InputError, match="a flow over 1 links on a network of 2"):
        FluidNetwork(env, np.array([1.0, 1.0])).send(flow(1.0))
