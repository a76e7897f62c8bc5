"""A training step against hand arithmetic."""

from dataclasses import replace

import pytest

from sparsesim.closed_form import estimate
from sparsesim.errors import InputError
from sparsesim.model.setting import Setting
from sparsesim.model.sparsity import Sparsity
from sparsesim.model.training import Recipe, training_memory, training_tasks
from sparsesim.model.zoo import load_model
from sparsesim.scenario import Scenario
from sparsesim.study.cases import cases
from sparsesim.study.compare import run_case
from sparsesim.work import Copy, Gemm

MODEL = load_model("twell-1b")
RECIPE = Recipe(sequence_tok=2048, micro_batch=2, global_batch=64)
TOKENS = 2 * 2048
SPARSE = Sparsity.resolve({"kind": "twell", "point": "1b", "format": "twell"})


def test_products_take_six_flop_a_parameter_and_token() -> None:
    """2 forward and 4 backward for every weight that multiplies; norms do not, the tied embedding does in the head."""
    flop = sum(
        task.count * task.op.flop() for task in training_tasks(MODEL, Setting(), RECIPE) if isinstance(task.op, Gemm)
    )
    weights = MODEL.parameters() - 2048 * (2 * 18 + 1)
    assert flop == pytest.approx(6 * weights * TOKENS, rel=1e-6)


def test_memory_is_the_sum_of_its_parts_by_hand() -> None:
    """Fused norms: a layer keeps, in elements of d 2048 a token, 2 stream inputs, 2 normed ones, q, k, v, out and three
    FFN matrices of 5632; attention's row sums are 4 bytes a head.
    """
    memory = training_memory(MODEL, Setting(), RECIPE)
    assert memory.weight_bytes == 6 * MODEL.parameters()
    assert memory.gradient_bytes == 4 * MODEL.parameters()
    assert memory.optimizer_bytes == 8 * MODEL.parameters()
    assert memory.saved_bytes == 18 * TOKENS * (2 * (8 * 2048 + 3 * 5632) + 4 * 32)
    assert memory.momentary_bytes == 12 * 49152 * TOKENS


def test_an_eager_framework_keeps_more() -> None:
    """fp32 input and normalised output of two norms instead of the input in bf16: 2 x 4 bytes of d more."""
    fused, eager = (training_memory(MODEL, Setting(fused=fused), RECIPE).saved_bytes for fused in (True, False))
    assert eager - fused == 18 * TOKENS * 2048 * 2 * 4


@pytest.mark.parametrize(
    ("fused", "gated", "shared"), [(False, True, 3), (False, False, 2), (True, True, 0), (True, False, 0)]
)
def test_gradients_of_a_shared_input_are_added(fused: bool, gated: bool, shared: int) -> None:
    """Queries, keys and values read one input, gate and up another; fused products read theirs alone."""
    (group,) = MODEL.layers
    blocks = tuple(b.model_copy(update={"gated": gated}) if b.kind == "ffn" else b for b in group.blocks)
    model = MODEL.model_copy(update={"layers": (group.model_copy(update={"blocks": blocks}),)})
    tasks = training_tasks(model, Setting(fused=fused), RECIPE)
    products = {f"{task.part}.sum" for task in tasks if isinstance(task.op, Gemm)}
    assert sum(task.count for task in tasks if task.part in products) == 18 * shared


def test_recomputing_trades_time_for_memory() -> None:
    again = replace(RECIPE, saved="recomputed")
    assert (
        training_memory(MODEL, Setting(), again).saved_bytes
        < 0.3 * training_memory(MODEL, Setting(), RECIPE).saved_bytes
    )
    one, two = (
        sum(t.count * t.op.flop() for t in training_tasks(MODEL, Setting(), r) if isinstance(t.op, Gemm))
        for r in (RECIPE, again)
    )
    assert 1.25 < two / one < 1.34  # another forward of the layers on top of three


def test_the_hybrid_format_keeps_sparse_rows_only() -> None:
    """128 slots of a column and three values a token, 256 slots of a column and a value a neuron; next to no tail."""
    setting, hybrid = Setting(sparsity=SPARSE), replace(RECIPE, saved="twell_hybrid")
    saved = training_memory(MODEL, setting, RECIPE).saved_bytes - training_memory(MODEL, setting, hybrid).saved_bytes
    dense, sparse = 3 * 2 * 5632 * TOKENS, 128 * 8 * TOKENS + 5632 * 256 * 4
    assert saved == pytest.approx(18 * (dense - sparse), rel=1e-3)


def test_layers_with_many_active_neurons_stay_dense_in_the_hybrid_format() -> None:
    busy = Setting(sparsity=Sparsity.resolve({"kind": "constant", "density": 60 / 5632, "format": "twell"}))
    hybrid = replace(RECIPE, saved="twell_hybrid")
    assert training_memory(MODEL, busy, hybrid).saved_bytes == training_memory(MODEL, busy, RECIPE).saved_bytes
    assert all(task.op.op != "sparse_ffn_train" for task in training_tasks(MODEL, busy, hybrid))


def test_the_optimizer_runs_once_a_global_batch() -> None:
    """AdamW reads and writes weights and two moments in fp32, reads the gradient, writes the bf16 copy: 30 bytes."""
    update = next(t for t in training_tasks(MODEL, Setting(), RECIPE) if t.part == "optimizer.update")
    assert isinstance(update.op, Copy)
    assert update.count * update.op.hbm_bytes() == pytest.approx(30 * MODEL.parameters() * 2 / 64)


def _scenario(**workload: object) -> Scenario:
    values = {"kind": "training", "sequence": "2048 tok", "micro_batch": 2, "global_batch": 64, **workload}
    return Scenario.of({"model": "twell-1b", "deployment": {"hardware": "h100-sxm"}, "workload": values})


def test_compare_costs_a_training_step_instead_of_simulating_it() -> None:
    run = run_case(next(cases(_scenario())), lambda _: None)
    assert run.kind == "estimate"
    assert run.summary["peak_memory_bytes"] == pytest.approx(sum(run.summary["memory_by_use_bytes"].values()))


def test_bad_recipes_are_named() -> None:
    with pytest.raises(InputError, match="no multiple of micro_batch 3"):
        _scenario(micro_batch=3)
    with pytest.raises(InputError, match="needs an activation sparsity"):
        estimate(_scenario(saved="twell_hybrid"))
    with pytest.raises(InputError, match="mamba2"):
        training_memory(load_model("mamba2-780m"), Setting(), RECIPE)
    with pytest.raises(InputError, match="one copy of the model"):
        training_tasks(MODEL, Setting(dp=2), RECIPE)
