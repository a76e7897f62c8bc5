"""Folders of JSON and Parquet that are whole or not there, and read back with errors that name the file."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sparsesim.errors import InputError, Problem
from sparsesim.sim.records import Columns

MANIFEST = "manifest.json"
"""The file that makes a folder a run."""


def dumps(value: Any) -> str:
    """JSON that any reader takes: numbers that are not finite become null."""
    return json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, np.generic):
        return _plain(value.item())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def check_free(target: Path) -> None:
    """Refuse to write over anything but a run.

    Raises:
        InputError: the folder holds something else, or is a file.

    """
    if target.is_dir() and any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise InputError(Problem("holds something else than a run; nothing was written", place=str(target)))
    if target.exists() and not target.is_dir():
        raise InputError(Problem("is a file; a run needs a folder", place=str(target)))


def swap(made: Path, target: Path) -> None:
    """Put the finished folder in place; the old one stays whole until the moment the new one is there."""
    if not target.exists():
        made.replace(target)
        return
    old = made.with_name(made.name + "-old")
    target.replace(old)
    try:
        made.replace(target)
    except OSError:
        old.replace(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def arrow(columns: Columns) -> Any:
    """An Arrow table; text is stored once per distinct value."""
    import pyarrow as pa

    arrays = {name: pa.array(column) for name, column in columns.items()}
    text = {name: array.dictionary_encode() for name, array in arrays.items() if pa.types.is_string(array.type)}
    return pa.table({**arrays, **text})


def read_table(path: Path) -> Columns:
    """The columns of a Parquet file.

    Raises:
        InputError: missing or broken.

    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        table = parquet.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise InputError(Problem(f"cannot be read: {reason}", place=str(path))) from None
    return {name: _numpy(table.column(name)) for name in table.column_names}


def _numpy(column: Any) -> Any:
    array = column.to_numpy()
    return array.astype(str) if array.dtype == object else array


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a run.

    Raises:
        InputError: missing, broken, or no object.

    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = "a run folder is what 'run --out FOLDER' writes"
        raise InputError(Problem(f"cannot be read: {error.strerror}", place=str(path), hint=hint)) from None
    except ValueError as error:
        raise InputError(Problem(f"is not JSON: {error}", place=str(path))) from None
    if not isinstance(found, dict):
        raise InputError(Problem("is not a JSON object", place=str(path)))
    return found
