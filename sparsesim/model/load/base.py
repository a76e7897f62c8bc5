"""What an expert load tells: the popularity of every expert in a layer at a step.

Which experts are hot differs from layer to layer and is drawn from the seed. With `drift` the hot experts of a layer
change: over so many steps one drawn popularity turns into the next, linearly (load is stable over tens to hundreds of
iterations: facts on expert load).

A load is also a word, as the `load` column of an op holds it: `uniform`, `zipf:0.8`, `hot_set:hot=8,share=0.5`.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from sparsesim.errors import InputError, Problem
from sparsesim.families import Member

Floats = NDArray[np.float64]

_ALIASES = {"hot": "hot_expert"}
_ARGUMENT = re.compile(r"^(\w+)[-(]([0-9.]+)\)?$")
"""`zipf-0.8` and `zipf(0.8)`, as tables of measurements write it."""


class ExpertLoad(Member, family="sparsesim.model.load"):
    """Popularity of experts."""

    exchangeable: ClassVar[bool] = False
    """Whether who is hot is drawn without regard to neighbours: then how experts are dealt to ranks is chance too."""

    drift: int | None = Field(None, ge=1, description="steps until the hot experts are others; none: they stay")
    seed: int = Field(0, ge=0, description="of which experts are hot in which layer")

    @abstractmethod
    def drawn(self, experts: int, rng: np.random.Generator) -> Floats:
        """One popularity, `[experts]` summing to 1; `rng` decides which experts are hot.

        Raises:
            InputError: the load does not go with that many experts.

        """

    def popularity(self, experts: int, layer: int = 0, step: int = 0) -> Floats:
        """Of every expert of a layer at a step, `[experts]` summing to 1."""
        epoch, inside = divmod(step, self.drift) if self.drift else (0, 0)
        now = self.drawn(experts, np.random.default_rng((self.seed, layer, epoch)))
        if not self.drift or not inside:
            return now
        after = self.drawn(experts, np.random.default_rng((self.seed, layer, epoch + 1)))
        share = inside / self.drift
        return (1.0 - share) * now + share * after

    @property
    def cycle(self) -> int:
        """Steps after which the popularity has run through what it can be; 1 where it stays."""
        return 4 * self.drift if self.drift else 1

    def sampled(self, experts: int, count: int) -> Floats:
        """Popularities of `count` layers at steps spread over the cycle, `[count, experts]`."""
        steps = np.linspace(0, self.cycle, count, endpoint=False).astype(int)
        return np.stack([self.popularity(experts, layer, int(step)) for layer, step in enumerate(steps)])

    def word(self) -> str:
        """The load as one word, which `read_load` reads back."""
        values = [f"{name}={_shown(getattr(self, name))}" for name in sorted(self.model_fields_set)]
        return f"{self.kind}:{','.join(values)}" if values else self.kind


def _shown(value: Any) -> str:
    return "".join(f"{item!r}/" for item in value) if isinstance(value, tuple) else str(value)


def read_load(load: ExpertLoad | str | Mapping[str, Any]) -> ExpertLoad:
    """The load that a member, a mapping with `kind`, or a word describes.

    Values in a word are named, or stand in the order of the kind's own fields; a list of numbers ends in a slash
    (`empirical:counts=3/1/0/`); `hot:3` is `hot_expert:factor=3`.

    Raises:
        InputError: the kind is unknown, or a value is not accepted.

    """
    described: Any = _mapping(load) if isinstance(load, str) else load
    try:
        return ExpertLoad.resolve(described)
    except ValidationError as error:
        faults = [Problem(f"{'.'.join(map(str, e['loc']))}: {e['msg']}", f"load {load!r}") for e in error.errors()]
        raise InputError(faults) from None
    except ValueError as error:
        raise InputError(Problem(str(error), f"load {load!r}")) from None


def _mapping(word: str) -> dict[str, Any]:
    """A word as the mapping a file would hold."""
    from sparsesim.families import member_named

    kind, _, rest = _ARGUMENT.sub(r"\1:\2", word).partition(":")
    kind = _ALIASES.get(kind, kind)
    member = member_named(ExpertLoad, kind)
    if member is None or not rest:
        return {"kind": kind}
    own = [name for name in member.model_fields if name not in ExpertLoad.model_fields]
    found: dict[str, Any] = {"kind": kind}
    for position, item in enumerate(re.split("[:,]", rest)):
        name, equals, value = item.partition("=")
        if not equals:
            if position >= len(own):
                raise InputError(Problem(f"{item!r} in load {word!r} has no field", hint=f"fields: {', '.join(own)}"))
            name, value = own[position], item
        found[name] = value.removesuffix("/").split("/") if value.endswith("/") else value
    return found
