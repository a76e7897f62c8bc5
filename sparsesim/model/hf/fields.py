"""Reading a config.json field by field: which were used, which came from the class's defaults, what is wrong."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparsesim.errors import InputError, Problem, closest

_MISSING = object()


@dataclass
class Fields:
    """The fields of one configuration, `defaults` (those of its class) beneath; collects problems as it is read.

    A field is found under the first of several names that is given and not null. Reading never stops at a fault: a
    placeholder is returned, and `finish` raises every problem at once.
    """

    values: Mapping[str, Any]
    defaults: Mapping[str, Any]
    class_name: str
    place: Callable[[str], str]
    used: set[str] = field(default_factory=set)
    assumed: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def has(self, name: str) -> bool:
        """Whether the file, or the class where the file is silent, gives a value that is not null."""
        return self.values.get(name, self.defaults.get(name)) is not None

    def raw(self, *names: str) -> Any:
        """The first value under these names, the file's before the class's; None where there is none.

        A null in the file is an answer: the class's default does not replace it.
        """
        self.used.update(names)
        for name in names:
            if self.values.get(name) is not None:
                return self.values[name]
        if any(name in self.values for name in names):
            return None
        for name in names:
            if self.defaults.get(name) is not None:
                self.assumed[name] = self.defaults[name]
                return self.defaults[name]
        return None

    def maybe_integer(self, *names: str, least: int = 0) -> int | None:
        """A whole number, or None where nothing gives one."""
        value = self.raw(*names)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self.fault(self.name_of(names), f"{value!r} is not a whole number from {least} up")
            return least
        return value

    def integer(self, *names: str, least: int = 1) -> int:
        """A whole number that must be there."""
        value = self.maybe_integer(*names, least=least)
        if value is None:
            self.fault(names[0], "missing", f"also read as {', '.join(names[1:])}" if names[1:] else "")
            return least
        return value

    def number(self, name: str, otherwise: float) -> float:
        """A number, or `otherwise` where nothing gives one."""
        value = self.raw(name)
        if value is None:
            return otherwise
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.fault(name, f"{value!r} is not a number")
            return otherwise
        return float(value)

    def flag(self, name: str, otherwise: bool) -> bool:
        """True or false; `otherwise` is what the class does where it has no such field."""
        value = self.raw(name)
        if value is None:
            return otherwise
        if not isinstance(value, bool):
            self.fault(name, f"{value!r} is not true or false")
            return otherwise
        return value

    def text(self, *names: str, otherwise: str = "") -> str:
        """A word."""
        value = self.raw(*names)
        if value is None:
            return otherwise
        if not isinstance(value, str):
            self.fault(self.name_of(names), f"{value!r} is not a word")
            return otherwise
        return value

    def listed(self, name: str, length: int | None = None) -> list[Any] | None:
        """A list, of the given length where one is asked for, or None."""
        value = self.raw(name)
        if value is None:
            return None
        if not isinstance(value, list):
            self.fault(name, f"{value!r} is not a list")
            return None
        if length is not None and len(value) != length:
            self.fault(name, f"has {len(value)} entries", f"one for each of the {length} layers")
            return None
        return value

    def mapping(self, name: str) -> Mapping[str, Any] | None:
        """A nested mapping, or None."""
        value = self.raw(name)
        if value is not None and not isinstance(value, dict):
            self.fault(name, f"{value!r} is not a mapping")
            return None
        return value

    def must_be(self, name: str, accepted: bool | int) -> None:
        """Note a problem where a field has a value whose meaning is not modelled."""
        value = self.raw(name)
        if value is not None and value != accepted:
            self.fault(name, f"{value!r} is not understood", f"only {json.dumps(accepted)} is")

    def settled(self, *names: str) -> None:
        """Fields that another field overrules or that describe layers this model does not have."""
        self.used.update(names)

    def name_of(self, names: tuple[str, ...]) -> str:
        """The name under which the value was given."""
        return next((name for name in names if name in self.values), names[0])

    def fault(self, name: str, message: str, hint: str = "") -> None:
        """Note a problem with a field."""
        self.problems.append(Problem(message, name, self.place(name), hint))

    def unread(self, known: frozenset[str]) -> None:
        """Fields that nothing has read and that are not known to leave sizes alone are problems."""
        for name, value in self.values.items():
            if name in self.used or name in known or value is None:
                continue
            shown = json.dumps(value)
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            near = closest(name, self.used) if self.used else ""
            hint = near if near.startswith("did you mean") else f"not a field read for {self.class_name}"
            self.fault(name, f"{shown} is not understood", hint)

    def finish(self) -> None:
        """Raise what was found.

        Raises:
            InputError: with every problem.

        """
        if self.problems:
            raise InputError(tuple(dict.fromkeys(self.problems)))


def read_json(path: Path) -> tuple[dict[str, Any], Callable[[str], str]]:
    """A JSON object, and where each of its fields stands.

    Raises:
        InputError: the file cannot be read or is not a JSON object.

    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(Problem(f"cannot be read: {reason}", place=str(path))) from None
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(Problem(f"not JSON: {error.msg}", place=f"{path}:{error.lineno}:{error.colno}")) from None
    if not isinstance(values, dict):
        raise InputError(Problem("the top level must be an object of fields", place=str(path)))
    return values, lambda name: _place(text, name, path)


def _place(text: str, name: str, path: Path) -> str:
    found = re.search(rf'"{re.escape(name)}"\s*:', text)
    if found is None:
        return str(path)
    line = text.count("\n", 0, found.start()) + 1
    return f"{path}:{line}:{found.start() - text.rfind(chr(10), 0, found.start())}"
