"""Minimal routes with equal splitting (ECMP) over a network, and what a traffic matrix puts on every link.

For every destination the links that lie on a shortest path (and come first in order) form a directed
acyclic graph. Bytes are pushed along it from the farthest nodes to the destination, split evenly over the
outgoing links of every node. The order of the visits and the shares are computed once per network; a
traffic matrix then costs one pass over them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import dijkstra

from sparsesim.errors import InputError, Problem
from sparsesim.hardware.topology.base.network import Floats, Ints, Network


@dataclass(frozen=True, slots=True)
class _Level:
    """The (link, destination) pairs whose source is equally far from the destination."""

    link: Ints
    destination: Ints
    share: Floats


@dataclass(frozen=True, eq=False)
class Routes:
    """Routes of every device to every other."""

    network: Network

    @cached_property
    def _ends(self) -> tuple[int, Ints, Ints]:
        """Nodes in all, and every link's ends; devices that do not forward have a second node as sink."""
        net = self.network
        if net.transit:
            return len(net.nodes), net.target, np.arange(net.devices)
        sinks = np.arange(net.devices) + len(net.nodes)
        entering = np.where(net.target < net.devices, net.target + len(net.nodes), net.target)
        return len(net.nodes) + net.devices, entering, sinks

    @cached_property
    def distance(self) -> Floats:
        """Smallest metric from every node to every device, `[nodes, devices]`."""
        nodes, entering, sinks = self._ends
        backwards = csr_matrix((self.network.metric, (entering, self.network.source)), shape=(nodes, nodes))
        return np.asarray(dijkstra(backwards, indices=sinks).T)

    @cached_property
    def _levels(self) -> list[_Level]:
        nodes, entering, _ = self._ends
        net = self.network
        ahead = self.distance[net.source]
        on_path = np.isfinite(ahead) & (ahead == self.distance[entering] + net.metric[:, None])
        first = np.full((nodes, net.devices), np.iinfo(np.int64).max)
        np.minimum.at(first, net.source, np.where(on_path, net.order[:, None], first[0, 0]))
        link, destination = np.nonzero(on_path & (net.order[:, None] == first[net.source]))
        place = net.source[link] * net.devices + destination
        ways = np.bincount(place, minlength=nodes * net.devices)
        far = ahead[link, destination]
        order = np.argsort(-far, kind="stable")
        cuts = np.flatnonzero(np.diff(far[order])) + 1
        return [_Level(link[part], destination[part], 1.0 / ways[place[part]]) for part in np.split(order, cuts)]

    def loads(self, traffic: Floats) -> Floats:
        """Bytes on every link, `[links]`, for bytes from device to device, `[devices, devices]`.

        Raises:
            InputError: the matrix is not square in the number of devices, or holds a negative entry.

        """
        net = self.network
        self._check(traffic)
        nodes, entering, _ = self._ends
        held = np.zeros(nodes * net.devices)
        held[: net.devices**2] = traffic.ravel()
        held[np.arange(net.devices) * (net.devices + 1)] = 0.0
        loads = np.zeros(net.links)
        for level in self._levels:
            moved = held[net.source[level.link] * net.devices + level.destination] * level.share
            loads += np.bincount(level.link, moved, minlength=net.links)
            held += np.bincount(entering[level.link] * net.devices + level.destination, moved, minlength=len(held))
        return loads

    def _check(self, traffic: Floats) -> None:
        expected = (self.network.devices, self.network.devices)
        if traffic.shape != expected:
            raise InputError(
                Problem(f"traffic matrix has shape {traffic.shape}; the topology has {expected[0]} devices")
            )
        if (traffic < 0).any():
            raise InputError(Problem("traffic matrix holds a negative number of bytes"))

    @cached_property
    def latency_s(self) -> Floats:
        """Mean latency of the paths from device to device, `[devices, devices]`."""
        net = self.network
        nodes, entering, _ = self._ends
        below = np.zeros((nodes, net.devices))
        for level in reversed(self._levels):
            ahead = net.latency_s[level.link] + below[entering[level.link], level.destination]
            place = net.source[level.link] * net.devices + level.destination
            below += np.bincount(place, level.share * ahead, minlength=below.size).reshape(below.shape)
        latency = below[: net.devices].copy()
        np.fill_diagonal(latency, 0.0)
        return latency
