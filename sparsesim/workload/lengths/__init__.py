"""How long prompts and outputs are: one kind per file."""

from sparsesim.workload.lengths.base import Drawn, Lengths

__all__ = ["Drawn", "Lengths"]
