"""What a block stores: weights by how they are kept, cache and state elements."""

from __future__ import annotations

from dataclasses import dataclass

from sparsesim.errors import InputError, Problem


@dataclass(frozen=True, slots=True)
class Weights:
    """Numbers of weights: `linear` may be quantised, `kept` is not, `experts` are the routed ones, all of them.

    `active_experts` is the part of `experts` that one token passes through.
    """

    linear: int = 0
    kept: int = 0
    experts: int = 0
    active_experts: int = 0

    def __add__(self, other: Weights) -> Weights:
        return Weights(
            self.linear + other.linear,
            self.kept + other.kept,
            self.experts + other.experts,
            self.active_experts + other.active_experts,
        )

    def times(self, count: int) -> Weights:
        """Of `count` equal blocks."""
        return Weights(self.linear * count, self.kept * count, self.experts * count, self.active_experts * count)

    @property
    def total(self) -> int:
        """All parameters."""
        return self.linear + self.kept + self.experts

    @property
    def active(self) -> int:
        """Parameters one token passes through."""
        return self.linear + self.kept + self.active_experts


@dataclass(frozen=True, slots=True)
class State:
    """Elements of a sequence's fixed-size state: `conv` in the stream's dtype, `recurrent` in the state's own."""

    conv: int = 0
    recurrent: int = 0

    def __add__(self, other: State) -> State:
        return State(self.conv + other.conv, self.recurrent + other.recurrent)

    def times(self, count: int) -> State:
        """Of `count` equal blocks."""
        return State(self.conv * count, self.recurrent * count)


def split(number: int, ways: int, what: str, degree: str = "tp") -> int:
    """`number / ways`.

    Raises:
        InputError: naming both where it does not divide.

    """
    if number % ways:
        divisors = ", ".join(str(d) for d in range(1, min(number, 64) + 1) if number % d == 0)
        raise InputError(
            Problem(
                f"{degree} {ways} does not divide the {number} {what}",
                path=f"deployment.{degree}",
                hint=f"it may be {divisors}",
            )
        )
    return number // ways


def split_or_copy(number: int, ways: int, what: str) -> int:
    """Key-value heads (or groups) of one rank: split while there are enough, then one copied to several ranks.

    Raises:
        InputError: where neither divides the other.

    """
    if number >= ways:
        return split(number, ways, what)
    if ways % number:
        raise InputError(
            Problem(f"tp {ways} is not a multiple of the {number} {what}, nor a divisor of it", path="deployment.tp")
        )
    return 1
