"""A whole eager layer, measured as one, against its passes fitted apart (calibration/data/h100-sxm/eager.csv)."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sparsesim.cost.accumulate import Overhead, finished_one, price, totals
from sparsesim.cost.kernel import cost_model
from sparsesim.hardware.engine import load_engine
from sparsesim.hardware.profile import load_device
from sparsesim.model.arch import Model
from sparsesim.model.setting import Setting
from sparsesim.model.sparsity.constant import Constant
from sparsesim.model.training import Recipe, training_memory, training_tasks
from sparsesim.model.zoo import load_model
from sparsesim.work import Pointwise

DATA = Path(__file__).resolve().parents[2] / "calibration" / "data" / "h100-sxm" / "eager_layer.csv"
D_FF, SEQUENCE = 5632, 2048.0
Row = dict[str, str]


def measured(kind: str) -> dict[str, Row]:
    """Rows of a kind in one precision throughout (autocast keeps its weights in fp32) by case."""
    lines = (line for line in DATA.read_text().splitlines() if not line.startswith("#"))
    return {row["case"]: row for row in csv.DictReader(lines) if row["kind"] == kind and row["stream"] == "plain"}


@pytest.fixture(scope="module")
def layer() -> Model:
    """One layer of the paper's models, without embedding and head."""
    whole = load_model("twell-1b")
    return whole.model_copy(update={"layers": (whole.layers[0].model_copy(update={"count": 1}),)})


def step(model: Model, setting: Setting, tokens: float) -> tuple[float, float]:
    """Seconds and joules of a forward of sequences of 2048 tokens, under the power cap."""
    gpu, engine = load_device("h100-sxm"), load_engine("plain")
    tasks = [task for task in model.token_tasks(tokens, setting) if task.part != "embedding"]
    tasks += model.chunk_tasks(tokens / SEQUENCE, SEQUENCE, SEQUENCE, setting)
    costs = cost_model(gpu)
    overhead = Overhead(0.0, 0.0, 0.0, graph=False)
    time_s, *joules = finished_one(totals(price(tasks, costs)).tolist(), overhead, engine, costs.power)
    return time_s, sum(joules)


def forwards() -> Iterator[str]:
    """Cases with a sustained window, dense with the activation on its own, or by our TwELL kernels."""
    for case, row in measured("forward").items():
        if row["sustained_us"] and row["ffn"] in ("dense_eager", "twell"):
            yield case


@pytest.mark.parametrize("case", list(forwards()))
def test_a_forward_takes_the_time_and_energy_that_was_measured(layer: Model, case: str) -> None:
    row = measured("forward")[case]
    sparse = Constant(density=float(row["nnz"]) / D_FF, format="twell") if row["ffn"] == "twell" else None
    time_s, joules = step(layer, Setting(fused=False, sparsity=sparse), float(row["tokens"]))
    assert time_s == pytest.approx(float(row["sustained_us"]) * 1e-6, rel=0.07)
    assert joules == pytest.approx(float(row["energy_mj"]) * 1e-3, rel=0.07)


def test_sparsity_saves_what_was_measured(layer: Model) -> None:
    """Of a layer at 131,072 tokens: 15, 19 and 21 % at 39, 29 and 24 active neurons, each within 2 points."""
    rows = measured("forward")
    dense = float(rows["forward 131072 dense_eager 29"]["sustained_us"])
    plain = step(layer, Setting(fused=False), 131072.0)[0]
    for nnz in (24, 29, 39):
        own = step(layer, Setting(fused=False, sparsity=Constant(density=nnz / D_FF, format="twell")), 131072.0)[0]
        gain = dense / float(rows[f"forward 131072 twell {nnz}"]["sustained_us"])
        assert plain / own == pytest.approx(gain, abs=0.02)


@pytest.mark.parametrize("micro_batch", [1, 2, 6])
def test_forward_and_backward_kernels_take_the_time_that_was_measured(layer: Model, micro_batch: int) -> None:
    row = measured("training")[f"training {micro_batch} plain dense_eager 29"]
    recipe = Recipe(SEQUENCE, micro_batch, 64)
    tasks = [
        task
        for task in training_tasks(layer, Setting(fused=False), recipe)
        if task.part.split(".")[0] in ("attention", "ffn")
    ]
    seconds = sum(one.task.count * float(one.cost.time_s) for one in price(tasks, cost_model(load_device("h100-sxm"))))
    assert seconds == pytest.approx(float(row["kernels_us"]) * 1e-6, rel=0.09)


def test_a_backward_launches_the_passes_that_were_traced(layer: Model) -> None:
    """Kernel by kernel, but for products, attention, a row's few values (rsqrt) and gradients of weights added up."""
    lines = (line for line in (DATA.parent / "eager_passes.csv").read_text().splitlines() if not line.startswith("#"))
    traced = sum(
        int(row["calls"])
        for row in csv.DictReader(lines)
        if row["case"] == "training 6 plain dense_eager 29"
        and row["phase"] == "backward"
        and row["pass"] != "accumulate"
        and not row["pass"].endswith("rsqrt")
        and not any(other in row["kernel"] for other in ("nvjet", "flash", "Memset"))
    )
    tasks = training_tasks(layer, Setting(fused=False), Recipe(SEQUENCE, 6, 64))
    passes = [task for task in tasks if ".backward" in task.part and isinstance(task.op, Pointwise)]
    assert sum(task.count for task in passes if task.part.split(".")[0] in ("attention", "ffn")) == traced == 54


@pytest.mark.parametrize("micro_batch", [1, 2, 6])
def test_a_layer_keeps_the_bytes_that_were_measured(layer: Model, micro_batch: int) -> None:
    """`kept_mb` holds the layer's output too, which is the next layer's input."""
    row = measured("training")[f"training {micro_batch} plain dense_eager 29"]
    recipe = Recipe(SEQUENCE, micro_batch, 64)
    output = recipe.tokens * 2048 * 2
    saved = training_memory(layer, replace(Setting(), fused=False), recipe).saved_bytes
    assert saved + output == pytest.approx(float(row["kept_mb"]) * 1e6, rel=0.01)
