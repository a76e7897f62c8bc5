"""A router sends each request to one of the replicas that are up."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sparsesim.families import Member
from sparsesim.sim.request import Job

if TYPE_CHECKING:
    from sparsesim.sim.replica import Replica

Choose = Callable[[Job, Sequence["Replica"], float], "Replica"]


class Router(Member, family="sparsesim.sim.routers"):
    """The rule by which a replica is chosen; parameters only, any state lives in what `chooser` returns."""

    @abstractmethod
    def chooser(self) -> Choose:
        """A fresh function (request, replicas that are up (never none), time in s) -> replica."""
