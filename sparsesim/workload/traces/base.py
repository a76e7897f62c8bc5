"""What a trace format answers, how a file's format is told, and how faults are gathered.

Every fault of a file is reported with its line, the first `MOST` of them in words.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from sparsesim.errors import InputError, Problem, closest
from sparsesim.families import Member, kinds, members
from sparsesim.loading import search_folders
from sparsesim.workload.requests import RequestTable

MOST = 20
"""Faults of one file that are spelt out; the rest are counted."""


@dataclass(slots=True)
class Faults:
    """Collects what is wrong with a file, line by line."""

    path: Path
    found: list[Problem] = field(default_factory=list)

    def add(self, line: int, message: str, hint: str = "") -> None:
        """One fault; lines count from 1."""
        self.found.append(Problem(message, place=f"{self.path}:{line}", hint=hint))

    def raise_any(self) -> None:
        """Raise what was found.

        Raises:
            InputError: with the first faults and the count of the others.

        """
        if not self.found:
            return
        more = len(self.found) - MOST
        rest = [Problem(f"{more} more lines are at fault", place=str(self.path))] if more > 0 else []
        raise InputError([*self.found[:MOST], *rest])

    def count(self, line: int, name: str, text: object, least: int = 1) -> int:
        """A whole number of tokens, at least `least`; a fault and 0 where it is not one."""
        if isinstance(text, int) and not isinstance(text, bool):
            value = text
        elif isinstance(text, str) and text.strip().isdecimal():
            value = int(text)
        else:
            self.add(line, f"{name} is {text!r}, not a whole number of tokens")
            return 0
        if value < least:
            self.add(line, f"{name} is {value}, below {least}")
        return value

    def seconds(self, line: int, name: str, text: object, scale: float = 1.0) -> float:
        """A finite instant at or after 0; a fault and 0.0 where it is not one."""
        try:
            value = float(text) if isinstance(text, str | int | float) and not isinstance(text, bool) else float("nan")
        except ValueError:
            value = float("nan")
        if not 0.0 <= value < float("inf"):
            self.add(line, f"{name} is {text!r}, not a finite number at or above 0")
            return 0.0
        return value * scale


class TraceFormat(Member, family="sparsesim.workload.traces"):
    """A file format of recorded requests."""

    @classmethod
    @abstractmethod
    def recognises(cls, head: str) -> bool:
        """Whether a file that begins with these characters is likely of this format."""

    @abstractmethod
    def read(self, path: Path) -> RequestTable:
        """All requests, arrivals in seconds from the start of the recording, sorted.

        Raises:
            InputError: with every malformed line.

        """


def locate(file: str, folder: Path | None) -> Path:
    """The file beside the scenario, in the current folder, on SPARSESIM_PATH, or among the traces that ship.

    Raises:
        InputError: naming the nearest files there are.

    """
    path = Path(file).expanduser()
    folders = [folder] if folder is not None else []
    folders += [Path(), *search_folders("scenarios/traces")]
    for candidate in (place / path for place in folders):
        if candidate.is_file():
            return candidate
    names = {entry.name for place in folders if place.is_dir() for entry in place.iterdir() if entry.suffix in SUFFIXES}
    raise InputError(Problem(f"no file {file!r}", hint=closest(path.name, names)))


SUFFIXES = (".csv", ".jsonl", ".json")


def read_trace(file: str, format: TraceFormat | None = None, folder: Path | None = None) -> RequestTable:  # noqa: A002
    """The requests of a file; read once as long as the file does not change.

    Raises:
        InputError: no such file, no format fits, or lines are malformed.

    """
    path = locate(file, folder)
    return _read(path.resolve(), path.stat().st_mtime_ns, format)


@lru_cache(maxsize=8)
def _read(path: Path, modified_ns: int, format: TraceFormat | None) -> RequestTable:  # noqa: A002
    del modified_ns
    if format is None:
        format = _told(path)  # noqa: A001
    table = format.read(path).by_arrival()
    if len(table) == 0:
        raise InputError(Problem("holds no request", place=str(path)))
    return table


def _told(path: Path) -> TraceFormat:
    head = head_of(path)
    known = members(TraceFormat)  # type: ignore[type-abstract]
    fitting = [member for member in known.values() if member.recognises(head)]
    if len(fitting) == 1:
        return fitting[0]()
    hint = "name one with 'format': " + ", ".join(kinds(TraceFormat))
    raise InputError(Problem("its format cannot be told from its first line", place=f"{path}:1", hint=hint))


def head_of(path: Path, characters: int = 4096) -> str:
    """The first characters of a file.

    Raises:
        InputError: the file cannot be read as UTF-8 text.

    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(characters)
    except UnicodeDecodeError:
        raise InputError(Problem("is not UTF-8 text", place=str(path))) from None
    except OSError as error:
        raise InputError(Problem(f"cannot be read: {error.strerror}", place=str(path))) from None


def columns_of(header: Sequence[str], needed: Sequence[str], path: Path) -> dict[str, int]:
    """Where each needed column stands.

    Raises:
        InputError: naming every column that is missing.

    """
    names = [name.strip() for name in header]
    missing = [name for name in needed if name not in names]
    if missing:
        raise InputError([Problem(f"has no column {m!r}", place=f"{path}:1", hint=closest(m, names)) for m in missing])
    return {name: index for index, name in enumerate(names)}


def rows_of(path: Path, faults: Faults, width: int) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of every line after the first; empty lines are passed over, others of a wrong
    width are faults.
    """
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        for line, text in enumerate(file, start=1):
            cells = text.rstrip("\r\n").split(",")
            if line == 1 or not text.strip():
                continue
            if len(cells) != width:
                faults.add(line, f"has {len(cells)} columns, not {width}")
                continue
            yield line, cells
