"""The published tables, row by row.

Engines are scored by halves: every row is predicted by the fit made without its model (`sparsesim fit --engine`); the
interval of a quantity is the 90 % quantile of those left-out errors over all models. Boards and cards are scored with
the model left out, the network's kernels by what their fits report of sizes and ranks left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sparsesim.errors import InputError, Problem
from sparsesim.hardware.engine import Engine, fit_path, load_engine, with_numbers
from sparsesim.loading import search_folders
from sparsesim.published import mlenergy, tensorrt
from sparsesim.published.observation import Observation, Unexpressed, halves
from sparsesim.study.published.judged import Judged

Row = Judged | Unexpressed


def published_suite() -> tuple[list[Judged], list[Unexpressed]]:
    """All rows: what is predicted, and what is not with the reason."""
    rows = [*_servers(mlenergy.ENGINE, list(mlenergy.observations())), *_tensorrt(), *_network(), *_boards(), *_cards()]
    return [r for r in rows if isinstance(r, Judged)], [r for r in rows if isinstance(r, Unexpressed)]


def _engine_halves(engine: str) -> list[Engine]:
    """For each half of the models, the engine fitted without it.

    Raises:
        InputError: the engine was never fitted.

    """
    path = fit_path(engine)
    if path is None:
        raise InputError(Problem(f"engine {engine} has no fit", hint=f"make it with sparsesim fit --engine {engine}"))
    raw = json.loads(path.read_text(encoding="utf-8"))["halves"]
    start = load_engine(engine, fitted=False)
    fits = [with_numbers(start, half["values"], "fitted to the other half") for half in raw]
    return [fits[1], fits[0]]


def _servers(engine: str, rows: Sequence[Observation | Unexpressed]) -> Iterator[Row]:
    yield from (row for row in rows if isinstance(row, Unexpressed))
    seen = [row for row in rows if isinstance(row, Observation)]
    fitted = _engine_halves(engine)
    shared: dict[tuple[int, int], Any] = {}
    found_rows: list[Judged] = []
    for row, half in zip(seen, halves(seen).tolist(), strict=True):
        steps = shared.setdefault((id(row.steps), half), replace(row.steps, engine=fitted[half], _curves={}))
        found = row.predicted(steps)
        power, rate = sum(found.power_w.values()), found.output_tok_per_s
        figures = (
            ("median inter-token latency", "s", row.median_itl_s, found.median_itl_s),
            ("output rate", "tok/s", row.output_tok_per_s, rate),
            ("power", "W", row.power_w, power),
            ("energy per token", "J/tok", row.power_w / row.output_tok_per_s, power / rate),
        )
        for quantity, unit, measured, predicted in figures:
            if math.isfinite(measured):
                found_rows.append(Judged(row.group, quantity, unit, row.name, measured, predicted, 0.0))
    yield from with_interval(found_rows)


def with_interval(rows: Sequence[Judged]) -> Iterator[Judged]:
    """The rows with the 90 % quantile of their own absolute log errors, by quantity, as half-width."""
    by_quantity: dict[str, list[float]] = {}
    for row in rows:
        by_quantity.setdefault(row.quantity, []).append(abs(math.log(row.ratio)))
    for row in rows:
        yield replace(row, half_width=float(np.quantile(by_quantity[row.quantity], 0.9)))


def _tensorrt() -> Iterator[Row]:
    rows = list(tensorrt.observations())
    maximum = [r for r in rows if isinstance(r, Observation) and "maximum" in r.group]
    yield from _servers(tensorrt.ENGINE, maximum)
    fixed = [r for r in rows if isinstance(r, Observation) and "maximum" not in r.group]
    engine = load_engine(tensorrt.ENGINE)
    for row in fixed:
        found = row.predicted(replace(row.steps, engine=engine, _curves={}))
        yield Judged(
            row.group, "output rate", "tok/s", row.name, row.output_tok_per_s, found.output_tok_per_s, engine.half_width
        )
    for name, measured_s, steps, prompt in tensorrt.first_tokens():
        values = replace(steps, engine=engine, _curves={}).mixed(0, (0.0,) * len(steps.windows), [(prompt, prompt)], 1)
        yield Judged("tensorrt-llm v0.9 prefill", "TTFT", "s", name, measured_s, values[0], engine.half_width)


def _network() -> Iterator[Row]:
    """The expert-parallel kernels' rows as their fits predict them; left-out errors are in the fits themselves."""
    for name in ("gb200-nvl72", "h800-deepep"):
        raw = _network_fit(name)
        for row in raw["residuals"]:
            label = f"EP {row['ep']}, {row['tokens']:g} tokens, {row['op']}, {row['dtype']}"
            group = f"all-to-all {name} (fitted rows)"
            yield Judged(group, "latency", "s", label, row["seconds"], row["predicted_s"], raw["half_width"])
    for row in _network_fit("h100-nccl")["not_predicted"]:
        yield Unexpressed(f"nccl: {row['op']}", 1, row["reason"])


def _network_fit(name: str) -> dict[str, Any]:
    paths = (folder / "fits" / "network" / f"{name}.json" for folder in search_folders("hwprofiles"))
    path = next((p for p in paths if p.is_file()), None)
    if path is None:
        raise InputError(Problem(f"network fit {name} is missing", hint="python -m sparsesim.cost.network.fit"))
    raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return raw


def _boards() -> Iterator[Row]:
    from sparsesim.cost.edge.mlc import leave_one_model_out, mlc_rows

    found = leave_one_model_out(mlc_rows())
    half = float(np.quantile([abs(math.log(item.ratio)) for item in found], 0.9))
    for item in found:
        name = f"{item.row.model} on {item.row.board}"
        rate = item.row.tok_per_s
        yield Judged("Jetson, MLC int4", "output rate", "tok/s", name, rate, rate * item.ratio, half)


def _cards() -> Iterator[Row]:
    from sparsesim.cost.edge import consumer

    rows = consumer.rows()
    ratios = consumer.leave_one_model_out(rows, [consumer.work(row) for row in rows])
    half = float(np.quantile(np.abs(np.log(ratios)), 0.9))
    for row, ratio in zip(rows, ratios.tolist(), strict=True):
        name = f"{row.model}, {row.prompt_tok:g} tokens"
        yield Judged("SSM-Scope prefill, RTX 4090", "energy", "J", name, row.energy_j, row.energy_j * ratio, half)
