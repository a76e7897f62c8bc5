"""What blocks with a fixed-size recurrent state share: a short convolution, a scan for prompts, a step for decode."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from sparsesim.model import emit
from sparsesim.model.blocks.base import Block, ByWindow
from sparsesim.model.setting import Setting
from sparsesim.model.weights import State
from sparsesim.work import Array, SsmScan, SsmStep, Task


@dataclass(frozen=True, slots=True)
class Cells:
    """Shape of the recurrence on one rank: the columns of SsmScan and SsmStep."""

    kind: str
    heads: int
    head_dim: int
    state: int
    groups: int = 1

    @property
    def elements(self) -> int:
        """Of a sequence's state."""
        return self.heads * self.head_dim * self.state


class Recurrent(Block):
    """A block whose past is a state of fixed size."""

    conv: int = Field(4, ge=0, description="taps of the causal convolution; 0: none")

    @abstractmethod
    def cells(self, tp: int = 1) -> Cells:
        """Shape of the recurrence on one of tp ranks."""

    @abstractmethod
    def conv_width(self, tp: int = 1) -> int:
        """Channels of the convolution on one of tp ranks."""

    @property
    def part(self) -> str:
        """Reports group all recurrent mixers."""
        return "ssm"

    def state_elements(self, tp: int = 1) -> State:
        """The last conv-1 inputs of the convolution and the recurrent state."""
        return State(conv=self.conv_width(tp) * max(self.conv - 1, 0), recurrent=self.cells(tp).elements)

    def decode_by_window(self, sequences: Array, kv_tok: Array, setting: Setting) -> ByWindow:
        """Convolution with its state read and written, and the step: neither depends on the context."""
        del kv_tok
        step = SsmStep(batch=sequences, **self._columns(setting))
        width = self.conv_width(setting.tp) * self.conv
        return {0.0: [*self._conv(sequences, width, setting), Task("ssm.step", step)]}

    def chunk_tasks(self, sequences: Array, q_tok: Array, kv_tok: Array, setting: Setting) -> list[Task]:
        """Convolution and scan over the chunk's new tokens."""
        del kv_tok
        scan = SsmScan(batch=sequences, tokens=q_tok, **self._columns(setting))
        return [*self._conv(sequences * q_tok, self.conv_width(setting.tp), setting), Task("ssm.scan", scan)]

    def _conv(self, tokens: Array, width: int, setting: Setting) -> list[Task]:
        return [emit.pointwise("ssm.conv", "conv", tokens, width, setting)] if self.conv else []

    def _columns(self, setting: Setting) -> dict[str, Any]:
        cells = self.cells(setting.tp)
        return {
            "heads": cells.heads,
            "head_dim": cells.head_dim,
            "state": cells.state,
            "groups": cells.groups,
            "kind": cells.kind,
            "dtype": setting.precision.stream,
            "state_dtype": setting.precision.state,
        }
