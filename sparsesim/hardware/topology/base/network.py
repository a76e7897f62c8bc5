"""A network as arrays of directed links between devices and switches.

Graphs are built, drawn and checked with networkx; everything that is computed per step runs on these
arrays. A link has a bandwidth, a latency, joules per byte and an integer *metric*: routes minimise its sum,
so that traffic inside a node stays on the node's own links (metric 1) although a path through the NICs
(metric 2 each) may have as few hops.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from sparsesim.errors import InputError, Problem, closest

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Link:
    """One direction of a cable: what a builder puts on an edge of the graph.

    Among shortest ways a node takes those of the lowest `order` (grids go along one dimension after the
    other).
    """

    bandwidth_bytes_per_s: float
    latency_s: float
    j_per_byte: float
    metric: int = 1
    tier: str = "link"
    order: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """Directed links as columns; `nodes[:devices]` are the devices in rank order, the others switches.

    `transit` says whether a device forwards for others (rings, tori, meshes) or only sends and receives.
    """

    nodes: tuple[str, ...]
    devices: int
    source: Ints
    target: Ints
    bandwidth_bytes_per_s: Floats
    latency_s: Floats
    j_per_byte: Floats
    metric: Ints
    tier: tuple[str, ...]
    order: Ints
    transit: bool = False

    @property
    def links(self) -> int:
        """Directed links."""
        return len(self.source)

    def link_names(self) -> list[str]:
        """`from -> to` of every link."""
        return [f"{self.nodes[a]} -> {self.nodes[b]}" for a, b in zip(self.source, self.target, strict=True)]

    def between(self, one: str, other: str) -> NDArray[np.bool_]:
        """Mask of the links between two nodes, both directions.

        Raises:
            InputError: no such node, or no link between them.

        """
        for name in (one, other):
            if name not in self.nodes:
                raise InputError(Problem(f"no node {name!r} in the topology", hint=closest(name, self.nodes)))
        a, b = self.nodes.index(one), self.nodes.index(other)
        mask = ((self.source == a) & (self.target == b)) | ((self.source == b) & (self.target == a))
        if not mask.any():
            raise InputError(Problem(f"no link between {one!r} and {other!r}"))
        return np.asarray(mask)

    def with_slow_link(self, one: str, other: str, factor: float) -> Network:
        """The network with both directions of a link at `factor` of their bandwidth, `0 < factor <= 1`."""
        if not 0.0 < factor <= 1.0:
            raise InputError(Problem(f"slow link factor {factor} must be in (0, 1]; a link at 0 is lost"))
        bandwidth = np.where(self.between(one, other), factor, 1.0) * self.bandwidth_bytes_per_s
        return replace(self, bandwidth_bytes_per_s=bandwidth)

    def without_link(self, one: str, other: str) -> Network:
        """The network without a link; routes go around it, and it is an error if there is no way around."""
        kept = ~self.between(one, other)
        smaller = replace(
            self,
            source=self.source[kept],
            target=self.target[kept],
            bandwidth_bytes_per_s=self.bandwidth_bytes_per_s[kept],
            latency_s=self.latency_s[kept],
            j_per_byte=self.j_per_byte[kept],
            metric=self.metric[kept],
            tier=tuple(tier for tier, keep in zip(self.tier, kept, strict=True) if keep),
            order=self.order[kept],
        )
        check(smaller.graph(), smaller.transit)
        return smaller

    def graph(self) -> nx.DiGraph:
        """The same as a networkx graph, for drawing and checking."""
        graph = nx.DiGraph()
        for index, name in enumerate(self.nodes):
            graph.add_node(name, **({"rank": index} if index < self.devices else {}))
        columns = (self.bandwidth_bytes_per_s, self.latency_s, self.j_per_byte, self.metric, self.tier, self.order)
        for a, b, *values in zip(self.source, self.target, *columns, strict=True):
            graph.add_edge(self.nodes[a], self.nodes[b], link=Link(*values))
        return graph


def connect(graph: nx.DiGraph, one: str, other: str, link: Link) -> None:
    """Add both directions of a link."""
    graph.add_edge(one, other, link=link)
    graph.add_edge(other, one, link=link)


def from_graph(graph: nx.DiGraph, transit: bool) -> Network:
    """Arrays of a graph whose device nodes carry `rank` and whose edges carry a `Link`.

    Raises:
        InputError: a link without bandwidth, or devices that cannot reach each other.

    """
    check(graph, transit)
    devices = sorted(
        (name for name, rank in graph.nodes(data="rank") if rank is not None),
        key=lambda n: graph.nodes[n]["rank"],
    )
    names = [*devices, *(name for name, rank in graph.nodes(data="rank") if rank is None)]
    index = {name: i for i, name in enumerate(names)}
    edges = [(index[a], index[b], link) for a, b, link in graph.edges(data="link")]
    links = [link for _, _, link in edges]
    return Network(
        nodes=tuple(names),
        devices=len(devices),
        source=np.array([a for a, _, _ in edges], dtype=np.int64),
        target=np.array([b for _, b, _ in edges], dtype=np.int64),
        bandwidth_bytes_per_s=np.array([link.bandwidth_bytes_per_s for link in links], dtype=np.float64),
        latency_s=np.array([link.latency_s for link in links], dtype=np.float64),
        j_per_byte=np.array([link.j_per_byte for link in links], dtype=np.float64),
        metric=np.array([link.metric for link in links], dtype=np.int64),
        tier=tuple(link.tier for link in links),
        order=np.array([link.order for link in links], dtype=np.int64),
        transit=transit,
    )


def check(graph: nx.DiGraph, transit: bool) -> None:
    """Raise an InputError listing links without bandwidth and devices that cannot be reached."""
    dead = [f"{a} -> {b}" for a, b, link in graph.edges(data="link") if not link.bandwidth_bytes_per_s > 0]
    problems = [Problem(f"link {name} has no bandwidth", hint="a bandwidth above 0 B/s") for name in dead]
    problems += [Problem(message) for message in _unreachable(graph, transit)]
    if problems:
        raise InputError(problems)


def _unreachable(graph: nx.DiGraph, transit: bool) -> list[str]:
    devices = [name for name, rank in graph.nodes(data="rank") if rank is not None]
    usable = graph if transit else _split(graph, devices)
    enter = {name: name if transit else ("in", name) for name in devices}
    found = []
    for name in devices[:1]:
        forward = nx.descendants(usable, name) | {name, enter[name]}
        backward = nx.ancestors(usable, enter[name]) | {name, enter[name]}
        lost = [other for other in devices if enter[other] not in forward or other not in backward]
        if lost:
            shown = ", ".join(lost[:4]) + (", ..." if len(lost) > 4 else "")
            found.append(f"topology is disconnected: no route between {name} and {shown}")
    return found


def _split(graph: nx.DiGraph, devices: list[str]) -> nx.DiGraph:
    """Devices as a source and a sink each, so that no path leads through one."""
    ends = set(devices)
    split = nx.DiGraph()
    split.add_nodes_from(graph.nodes)
    split.add_edges_from((a, ("in", b) if b in ends else b) for a, b in graph.edges)
    return split
