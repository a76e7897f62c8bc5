"""What goes wrong in a step that is simulated op by op: slow ranks, jitter, slow and lost links."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pydantic import Field

from sparsesim.families import Frozen

if TYPE_CHECKING:
    from sparsesim.hardware.topology import Network
    from sparsesim.sim.op_detail.program import Program


class SlowLink(Frozen):
    """Both directions of a link at a share of their bandwidth."""

    between: tuple[str, str] = Field(description="its ends, as the topology names them: gpu3, switch0, ...")
    factor: float = Field(gt=0.0, le=1.0, description="share of the bandwidth that is left")


class Disturbances(Frozen):
    """Nothing by default."""

    slow_ranks: dict[int, float] = Field(default_factory=dict, description="by rank, how much longer its kernels take")
    jitter: float = Field(0.0, ge=0.0, description="sigma of every kernel's log-normal stretch of mean 1")
    slow_links: tuple[SlowLink, ...] = ()
    lost_links: tuple[tuple[str, str], ...] = Field((), description="ends of links that traffic goes around")

    @property
    def links(self) -> bool:
        """Whether any link is slow or lost."""
        return bool(self.slow_links or self.lost_links)

    def on(self, network: Network) -> Network:
        """The network with its slow and lost links.

        Raises:
            InputError: no such link, or devices are cut off.

        """
        for link in self.slow_links:
            network = network.with_slow_link(*link.between, link.factor)
        for one, other in self.lost_links:
            network = network.without_link(one, other)
        return network

    def change(self, ranks: int, seed: int) -> Callable[[Program], Program]:
        """What slow ranks and jitter do to the programs of `ranks` ranks.

        Raises:
            InputError: (when applied) no such rank, or one that would be faster.

        """
        from sparsesim.sim.op_detail.noise import with_jitter, with_slow_rank

        def changed(steps: Program) -> Program:
            for rank, factor in self.slow_ranks.items():
                steps = with_slow_rank(steps, rank, factor, ranks)
            return with_jitter(steps, self.jitter, ranks, seed) if self.jitter else steps

        return changed
