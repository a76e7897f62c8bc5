"""Tables of ops: rows of a CSV gathered into vectorised ops, and answers put back in the rows' order.

A row names its `op` and fills the columns that op declares; other columns are carried through, columns of other ops may
stay empty. Rows that agree in every column that is not a size (dtype, kind, experts ...) become one op with arrays.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from sparsesim.errors import InputError, Problem, closest
from sparsesim.work import OPS, Op, columns

if TYPE_CHECKING:
    import pandas as pd

_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


@dataclass(frozen=True, slots=True)
class Group:
    """Rows [n] of a table as one op with arrays, and the columns left to their defaults."""

    rows: npt.NDArray[np.int64]
    op: Op
    defaulted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """Rows that are no op sparsesim can answer, and why."""

    rows: npt.NDArray[np.int64]
    reason: str


def read_table(path: str | Path) -> pd.DataFrame:
    """A CSV with `#` comment lines above its header; every cell as text, rows [n] by their lines in the file.

    Raises:
        InputError: the file cannot be read, has no `op` column, one twice, or rows of other lengths than the header.

    """
    import pandas as pd

    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(Problem(f"cannot be read: {reason}", place=str(path))) from None
    reader = csv.reader("" if line.startswith("#") else line for line in text.splitlines(keepends=True))
    try:
        records = [(reader.line_num, cells) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as error:
        raise InputError(Problem(f"not a CSV: {error}", place=f"{path}:{reader.line_num}")) from None
    if not records:
        raise InputError(Problem("holds no rows", place=str(path)))
    (_, header), *rows = records
    _check_shape(path, header, rows)
    lines = pd.Index([line for line, _ in rows], name="line")
    return pd.DataFrame([cells for _, cells in rows], index=lines, columns=header, dtype=str)


def _check_shape(path: str | Path, header: list[str], rows: list[tuple[int, list[str]]]) -> None:
    """Raise where a cell would be read under another column's name."""
    if "op" not in header:
        raise InputError(Problem("has no column 'op'", place=str(path), hint=f"one of: {', '.join(OPS)}"))
    twice = sorted({name for name in header if header.count(name) > 1})
    wrong = [Problem(f"column {name!r} stands twice", place=str(path)) for name in twice]
    wrong += [
        Problem(f"has {len(cells)} cells, the header {len(header)}", place=f"{path}:{line}")
        for line, cells in rows
        if len(cells) != len(header)
    ]
    if wrong:
        raise InputError(wrong)


def groups(frame: pd.DataFrame) -> Iterator[Group | Refused]:
    """The rows as ops; every row appears exactly once."""
    for name, part in frame.groupby("op", sort=False):
        if name not in OPS:
            yield Refused(_rows(part), f"unknown op {name!r}, {closest(str(name), OPS)}")
            continue
        yield from _of_one_op(OPS[str(name)], part)


def _of_one_op(op: type[Op], part: pd.DataFrame) -> Iterator[Group | Refused]:
    declared = columns(op)
    present = [name for name in declared if name in part.columns]
    sizes = [name for name in present if _is_size(declared[name])]
    others = [name for name in present if name not in sizes]
    filled = [f"{name}?" for name in sizes]
    keyed = part.assign(**{f"{name}?": part[name] != "" for name in sizes})
    for _, alike in keyed.groupby([*others, *filled], sort=False) if others or filled else [((), keyed)]:
        yield from _built(op, alike, present)


def _built(op: type[Op], alike: pd.DataFrame, present: list[str]) -> Iterator[Group | Refused]:
    declared = columns(op)
    values: dict[str, Any] = {}
    rows, good, reasons = _rows(alike), np.ones(len(alike), bool), np.full(len(alike), "", object)
    for name in present:
        cells = alike[name].to_numpy(dtype=str)
        if cells[0] == "":
            continue
        if _is_size(declared[name]):
            numbers = _numbers(cells)
            fine = np.isfinite(numbers) & (numbers > 0) | (np.isinf(numbers) & (name == "window"))
            reasons[good & ~fine] = [
                f"{name} is {cell!r}, not a number above zero" for cell in cells[good & ~fine].tolist()
            ]
            good &= fine
            values[name] = numbers
        else:
            try:
                values[name] = _scalar(declared[name], str(cells[0]))
            except ValueError as error:
                yield Refused(rows, f"{name}: {error}")
                return
    missing = [n for n, f in declared.items() if f.default is dataclasses.MISSING and n not in values]
    if missing:
        yield Refused(rows, f"{op.op} needs {', '.join(missing)}")
        return
    for reason in dict.fromkeys(reasons[~good]):
        yield Refused(rows[reasons == reason], reason)
    if good.any():
        kept: dict[str, Any] = {n: v[good] if isinstance(v, np.ndarray) else v for n, v in values.items()}
        defaulted = tuple(n for n in declared if n not in values and n not in ("graph", "regime"))
        try:
            yield Group(rows[good], op(**kept), defaulted)
        except ValueError as error:
            yield Refused(rows[good], str(error))


def _rows(part: pd.DataFrame) -> npt.NDArray[np.int64]:
    return part.index.to_numpy(dtype=np.int64)


def _is_size(field: dataclasses.Field[Any]) -> bool:
    return "Array" in str(field.type)


def _numbers(cells: npt.NDArray[np.str_]) -> npt.NDArray[np.float64]:
    try:
        return cells.astype(float)
    except ValueError:
        return np.array([_number(cell) for cell in cells])


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return float("nan")


def _scalar(field: dataclasses.Field[Any], cell: str) -> Any:
    kind = str(field.type)
    if kind == "int":
        number = float(cell)
        if number != int(number) or number < 0:
            raise ValueError(f"{cell!r} is not a whole number")
        return int(number)
    if kind == "bool":
        if cell.lower() not in _TRUE + _FALSE:
            raise ValueError(f"{cell!r} is neither true nor false")
        return cell.lower() in _TRUE
    return cell
