"""A scheduler decides what a replica computes in its next iteration."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from sparsesim.families import Member

if TYPE_CHECKING:
    from sparsesim.sim.fleet import Fleet
    from sparsesim.sim.replica import Replica, ReplicaSpec


class Scheduler(Member, family="sparsesim.sim.schedulers"):
    """The rules by which waiting requests join the batch; parameters only, the state is the replica's."""

    @abstractmethod
    def replica(self, fleet: Fleet, index: int, spec: ReplicaSpec, role: str = "serve") -> Replica:
        """A fresh replica that works by these rules.

        Args:
            fleet: to report to.
            index: its number in the records.
            spec: its costs and memory.
            role: serve (prompts and tokens), prefill (prompts only, then hand on) or decode (take over).

        Raises:
            InputError: the rules know no such role.

        """
