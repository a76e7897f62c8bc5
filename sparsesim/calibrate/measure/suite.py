"""Suites: what to measure, as TOML.

A suite has `blocks` (rows of ops) or `quantities` (figures of the device itself: idle power, launch overhead).
A block makes rows = shapes x grid x sobol points, drops those beyond its limits, and may ask for energy:

    [[block]]
    op = "gemm"
    group = "llm"
    fixed = { dtype = "bf16" }
    columns = ["n", "k"]                       # of `shapes`
    shapes = [[6144, 4096], [4096, 4096]]
    sobol = { count = 4, m = { of = [1, 2, 3, 4, 8, 16] } }      # points per shape
    limits = { flop = 4e12, hbm_bytes = 8e9 }

A suite over several GPUs says how many (`gpus`), unless the command does; its rows' number of ranks (`gpus`, `ranks`
or `ep`) is that. A block for some numbers only lists them in its own `gpus`. Expert-parallel layers are blocks without
an op: each makes the rows of dispatch, expert FFN and combine.

    [[layer]]
    group = "qwen3-30b-a3b"
    fixed = { d_model = 2048, d_ff = 768, experts = 128, top_k = 8 }
    grid = { tokens = [8, 1024], load = ["uniform", "zipf"] }
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import random
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparsesim.calibrate.measure.expert_parallel.layer import ExpertLayer
from sparsesim.calibrate.measure.sampling import axis, points, strictly
from sparsesim.errors import InputError
from sparsesim.work import OPS, Op, columns

SUITES = Path(__file__).resolve().parents[3] / "calibration" / "suites"
_SUITE_KEYS = ("description", "seed", "gpus", "quantities", "block", "layer")
_LAYER_KEYS = ("group", "fixed", "columns", "shapes", "grid", "gpus", "energy", "priority")
_BLOCK_KEYS = ("op", *_LAYER_KEYS, "sobol", "derive", "limits")
_RANK_COLUMNS = ("gpus", "ranks", "ep")
_LIMITS = ("flop", "hbm_bytes", "least_hbm_bytes", "link_bytes")
_MOST_DRAWS_PER_POINT = 200


@dataclass(frozen=True, slots=True)
class Row:
    """One thing to measure; rows of lower `priority` come first. `layer` is the one whose stage the op is."""

    op: Op
    group: str
    energy: bool = False
    priority: int = 1
    layer: ExpertLayer | None = None

    def cells(self) -> dict[str, str]:
        """The op's columns as CSV cells."""
        return {"op": self.op.op} | {n: cell(getattr(self.op, n)) for n in columns(type(self.op))}

    def key(self) -> tuple[tuple[str, str], ...]:
        """What identifies the row in a table."""
        return tuple(sorted(self.cells().items()))


@dataclass(frozen=True, slots=True)
class Suite:
    """Rows in the order of measuring, or quantities of the device."""

    name: str
    seed: int
    rows: tuple[Row, ...]
    quantities: tuple[str, ...] = ()
    gpus: int = 1

    def ops(self) -> list[type[Op]]:
        """Op classes that occur, in the order of the vocabulary."""
        present = {type(row.op) for row in self.rows}
        return [op for op in OPS.values() if op in present]


def cell(value: Any) -> str:
    """A column's value as written to CSV: integers without a point, booleans in lower case."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.9g}"
    return str(value)


def load(name: str, gpus: int | None = None) -> Suite:
    """A suite by name (in calibration/suites) or by path, for a number of GPUs other than its own where it is given.

    Raises:
        InputError: naming the file, or the key and what would be accepted.

    """
    path = Path(name) if name.endswith(".toml") else SUITES / f"{name}.toml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in SUITES.glob("*.toml")))
        raise InputError(f"no suite {name!r}: {path} does not exist; suites: {known}")
    try:
        return parse(path.stem, tomllib.loads(path.read_text(encoding="utf-8")), gpus)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: {error}") from error


def parse(name: str, data: Mapping[str, Any], gpus: int | None = None) -> Suite:
    """A suite from its table; rows are unique, shuffled within their priority by the suite's seed.

    Rows of one layer stay together. A suite for another number of GPUs than its own is named after it.
    """
    strictly(data, _SUITE_KEYS, f"suite {name}")
    seed, own = int(data.get("seed", 0)), int(data.get("gpus", 1))
    count = _gpus(name, own, gpus)
    drawn: dict[tuple[tuple[str, str], ...], tuple[Row, ...]] = {}
    for index, block in enumerate(data.get("block", [])):
        for row in _block_rows(f"suite {name}, block {index + 1}", block, seed + index, count):
            drawn.setdefault(row.key(), (row,))
    for index, block in enumerate(data.get("layer", [])):
        for rows in _layer_rows(f"suite {name}, layer {index + 1}", block, count):
            drawn.setdefault(rows[0].key(), rows)
    ordered = list(drawn.values())
    random.Random(seed).shuffle(ordered)
    ordered.sort(key=lambda rows: rows[0].priority)
    title = name if count == own else f"{name}-{count}-gpus"
    return Suite(title, seed, tuple(itertools.chain(*ordered)), tuple(data.get("quantities", ())), count)


def _gpus(name: str, own: int, asked: int | None) -> int:
    if asked is None or asked == own:
        return own
    if own == 1:
        raise InputError(f"suite {name} runs on one GPU; --gpus {asked} is for suites over several")
    if asked < 2:
        raise InputError(f"suite {name} runs over ranks: --gpus is {asked}, must be 2 or more")
    return asked


def _layer_rows(where: str, block: Mapping[str, Any], gpus: int) -> Iterator[tuple[Row, ...]]:
    """The three rows of every layer of a block."""
    strictly(block, _LAYER_KEYS, where)
    if gpus not in block.get("gpus", [gpus]):
        return
    energy = bool(block.get("energy", False))
    for cells in _products(block):
        try:
            layer = ExpertLayer(ranks=gpus, regime="sustained" if energy else "burst", **cells)
        except TypeError as error:
            names = ", ".join(f.name for f in dataclasses.fields(ExpertLayer))
            raise InputError(f"{where}: {error}; columns: {names}") from None
        group, priority = str(block.get("group", "layer")), int(block.get("priority", 1))
        yield tuple(Row(op, group, energy, priority, layer) for op in layer.ops())


def _block_rows(where: str, block: Mapping[str, Any], seed: int, gpus: int) -> Iterator[Row]:
    strictly(block, _BLOCK_KEYS, where)
    strictly(block.get("limits", {}), _LIMITS, f"{where}, limits")
    kind = OPS.get(str(block.get("op")))
    if kind is None:
        raise InputError(f"{where}: op is {block.get('op')!r}; accepted: {', '.join(OPS)}")
    if gpus not in block.get("gpus", [gpus]):
        return
    ranked = next((name for name in _RANK_COLUMNS if gpus > 1 and name in columns(kind)), None)
    block = dict(block) if ranked is None else {**block, "fixed": {ranked: gpus, **block.get("fixed", {})}}
    for cells in _cells(where, block, kind, seed):
        op = _op(where, kind, _derived(where, block.get("derive", {}), cells))
        group = str(block.get("group", kind.op))
        yield Row(op, group, bool(block.get("energy", False)), int(block.get("priority", 1)))


def _products(block: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Shapes x grid over what is fixed."""
    names, grid = block.get("columns", []), block.get("grid", {})
    shapes = [dict(zip(names, shape, strict=True)) for shape in block.get("shapes", [[]])]
    for shape, *chosen in itertools.product(shapes, *grid.values()):
        yield block.get("fixed", {}) | shape | dict(zip(grid, chosen, strict=True))


def _cells(where: str, block: Mapping[str, Any], kind: type[Op], seed: int) -> Iterator[dict[str, Any]]:
    """Shapes x grid x sobol points, those within the limits."""
    sobol = dict(block.get("sobol", {}))
    count = int(sobol.pop("count", 1))
    drawn = points({n: axis(n, spec) for n, spec in sobol.items()}, seed) if sobol else None
    derive = block.get("derive", {})

    def fits(cells: dict[str, Any]) -> bool:
        return _within(_op(where, kind, _derived(where, derive, cells)), block.get("limits", {}))

    for base in _products(block):
        if drawn is None:
            candidates: Iterator[dict[str, Any]] = iter([base])
        else:
            candidates = (base | point for point in itertools.islice(drawn, count * _MOST_DRAWS_PER_POINT))
        yield from itertools.islice(filter(fits, candidates), count)


def _derived(where: str, derive: Mapping[str, str], cells: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that are the sum of others (`kv_tok = "q_tok + past_tok"`); helper columns are dropped."""
    result = dict(cells)
    helpers: set[str] = set()
    for target, expression in derive.items():
        terms = [term.strip() for term in expression.split("+")]
        missing = [term for term in terms if term not in cells]
        if missing:
            raise InputError(f"{where}, derive {target}: no column {missing[0]!r} in {', '.join(cells)}")
        result[target] = sum(cells[term] for term in terms)
        helpers |= {term for term in terms if term.startswith("past_")}
    return {name: value for name, value in result.items() if name not in helpers}


def _op(where: str, kind: type[Op], cells: Mapping[str, Any]) -> Op:
    fields = columns(kind)
    for name in cells:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise InputError(f"{where}: {kind.op} has no column {name!r}{hint} columns: {', '.join(fields)}")
    missing = [n for n, f in fields.items() if f.default is dataclasses.MISSING and n not in cells]
    if missing:
        raise InputError(f"{where}: {kind.op} needs the column(s) {', '.join(missing)}")
    return kind(**{n: _typed(fields[n], value) for n, value in cells.items()})


def _typed(field: dataclasses.Field[Any], value: Any) -> Any:
    converters: dict[str, Any] = {"Array": float, "int": int, "str": str, "bool": bool}
    return converters[str(field.type)](value)


def _within(op: Op, limits: Mapping[str, float]) -> bool:
    least = float(op.hbm_bytes()) >= limits.get("least_hbm_bytes", 0.0)
    most = {"flop": op.flop, "hbm_bytes": op.hbm_bytes, "link_bytes": op.link_bytes}
    return least and all(float(size()) <= limits[name] for name, size in most.items() if name in limits)
