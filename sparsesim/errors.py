"""Everything that can go wrong because of what a user asked, with the exit code the command line answers with."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


class SparsesimWarning(UserWarning):
    """Something was assumed that the reader of a result should know."""


class SparsesimError(Exception):
    """Base of all errors that name the user's input; `exit_code` is the command's."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of an input: where it stands, what stands there, and what would be accepted."""

    message: str
    path: str = ""
    place: str = ""
    hint: str = ""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.place, self.path) if part)
        text = f"{where}: {self.message}" if where else self.message
        return f"{text} ({self.hint})" if self.hint else text


class InputError(SparsesimError):
    """Bad input; carries every problem found, not only the first."""

    def __init__(self, problems: str | Problem | Sequence[Problem]) -> None:
        if isinstance(problems, str):
            problems = Problem(problems)
        self.problems: tuple[Problem, ...] = (problems,) if isinstance(problems, Problem) else tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class DoesNotFitError(SparsesimError):
    """The model does not fit the memory it was given; the message counts the bytes."""

    exit_code = 3


class InfeasibleError(SparsesimError):
    """No deployment meets what was asked; the message says by how much the nearest misses."""

    exit_code = 3


class ToleranceError(SparsesimError):
    """A validation lies outside the tolerance that was asked for."""

    exit_code = 4


def closest(word: str, choices: Iterable[str], most: int = 3) -> str:
    """A hint naming the choices nearest to `word`, or all of them when none is near."""
    names = sorted(choices)
    near = difflib.get_close_matches(word, names, n=most, cutoff=0.5)
    if near:
        return "did you mean " + " or ".join(near) + "?"
    return "one of: " + ", ".join(names) if names else "there is none"
