"""What blocks store and launch follows from their shapes, under any split."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesim.errors import InputError
from sparsesim.families import members
from sparsesim.model import Batch, Block, Chunk, LayerGroup, Model, Precision, Setting, load_model, model_names
from sparsesim.model.blocks.attention import Attention
from sparsesim.model.blocks.ffn import Ffn
from sparsesim.model.blocks.gated_deltanet import GatedDeltanet
from sparsesim.model.blocks.kda import Kda
from sparsesim.model.blocks.lightning import Lightning
from sparsesim.model.blocks.mamba1 import Mamba1
from sparsesim.model.blocks.mamba2 import Mamba2
from sparsesim.model.blocks.mla import Mla
from sparsesim.model.blocks.mlgru import Mlgru
from sparsesim.model.blocks.moe import Moe
from sparsesim.model.blocks.parallel import Parallel
from sparsesim.model.blocks.rg_lru import RgLru
from sparsesim.model.blocks.s4d import S4d
from sparsesim.model.blocks.shared_transformer import SharedTransformer
from sparsesim.model.blocks.short_conv import ShortConv
from sparsesim.model.indexer import Indexer
from sparsesim.model.zoo import ModelFile
from sparsesim.work import AllReduce, Gemm, MoeCombine, MoeDispatch, MoeFfn, Pointwise, Task

D = 256
SPLIT: dict[str, Block] = {
    "attention": Attention(heads=8, kv_heads=4, head_dim=32, qk_norm="head"),
    "ffn": Ffn(d_ff=512),
    "gated_deltanet": GatedDeltanet(key_heads=4, value_heads=8, key_dim=32, value_dim=32),
    "lightning": Lightning(heads=8, head_dim=32),
    "mamba2": Mamba2(heads=8, head_dim=64, state=16, groups=4),
    "mlgru": Mlgru(width=256),
    "rg_lru": RgLru(width=256, heads=8),
    "s4d": S4d(width=256, state=64),
    "short_conv": ShortConv(width=256),
}
"""Blocks whose every matrix is split over the ranks."""
COPIED: dict[str, Block] = {
    "kda": Kda(heads=8, head_dim=32),
    "mamba1": Mamba1(d_inner=512, state=16, dt_rank=16),
    "mla": Mla(heads=8, kv_rank=64, rope_dim=16, nope_dim=32, v_dim=32, q_rank=96),
    "moe": Moe(experts=8, top_k=2, d_ff=128, shared_d_ff=128),
    "parallel": Parallel(
        branches=(Attention(heads=8, kv_heads=1, head_dim=32), Mamba2(heads=8, head_dim=64, state=16))
    ),
    "shared_transformer": SharedTransformer(
        attention=Attention(heads=8, kv_heads=8, head_dim=64), d_ff=512, copies=2, adapter_rank=16
    ),
}
"""Blocks some of whose matrices every rank has whole."""
EVERY = SPLIT | COPIED


def gemm_flop(tasks: list[Task]) -> Any:
    return sum(task.count * task.op.flop() for task in tasks if isinstance(task.op, Gemm))


def model_of(*blocks: Block, **given: Any) -> Model:
    sizes: dict[str, Any] = {"d_model": D, "vocab": 1024, "max_context": 4096, "source": "a test"} | given
    return Model(name="small", layers=(LayerGroup(count=2, blocks=blocks),), **sizes)


def test_every_kind_of_block_is_tried_here() -> None:
    assert set(members(Block)) == set(EVERY)


@pytest.mark.parametrize("kind", EVERY)
def test_products_multiply_by_every_weight_once(kind: str) -> None:
    """2 FLOP per weight of the matrices and token.

    The router is a product whose weights are kept; latent attention expands keys and values elsewhere; a shared
    transformer multiplies by the shared weights beside its own.
    """
    block = EVERY[kind]
    tasks = block.token_tasks(1.0, D, Setting())
    weights = block.weights(D)
    extra = {"moe": D * 8, "mla": -8 * 64 * (32 + 32)}.get(kind, 0)
    if isinstance(block, SharedTransformer):
        extra = block.shared(D).linear
    assert gemm_flop(tasks) == 2 * (weights.linear + extra)


def test_absorbed_products_use_the_up_projection_of_keys_and_values() -> None:
    block = EVERY["mla"]
    tasks = block.decode_by_window(1.0, 100.0, Setting())[0.0]
    assert gemm_flop(tasks) == 2 * 8 * 64 * (32 + 32)


@pytest.mark.parametrize("kind", SPLIT)
@pytest.mark.parametrize("tp", [2, 4])
def test_shards_sum_to_the_whole(kind: str, tp: int) -> None:
    block = SPLIT[kind]
    assert block.weights(D, tp).linear * tp == block.weights(D).linear
    whole = gemm_flop(block.token_tasks(7.0, D, Setting()))
    assert tp * gemm_flop(block.token_tasks(7.0, D, Setting(tp=tp))) == whole
    assert tp * block.kv_elements_per_token(tp) == block.kv_elements_per_token()
    assert tp * block.state_elements(tp).recurrent == block.state_elements().recurrent


@pytest.mark.parametrize("kind", COPIED)
def test_what_is_copied_makes_shards_sum_to_more(kind: str) -> None:
    block = COPIED[kind]
    whole = block.weights(D)
    shards = block.weights(D, 2)
    assert whole.linear <= 2 * shards.linear + whole.experts
    assert shards.linear < whole.linear


def test_key_value_heads_below_one_a_rank_are_copied() -> None:
    block = Attention(heads=8, kv_heads=2, head_dim=32)
    assert block.kv_elements_per_token(8) == block.kv_elements_per_token(2) == 2 * 32


@pytest.mark.parametrize("kind", EVERY)
def test_arrays_of_steps_equal_one_step_at_a_time(kind: str) -> None:
    model = model_of(EVERY[kind])
    setting = Setting(tp=2)
    decode, context, q = np.array([1.0, 5.0, 64.0]), np.array([10.0, 700.0, 4000.0]), np.array([16.0, 100.0, 512.0])
    together = model.tasks(Batch(decode, context, (Chunk(q, q * 2),), decode + 1), setting)
    for i in range(3):
        batch = Batch(decode[i], context[i], (Chunk(q[i], q[i] * 2),), decode[i] + 1)
        for one, many in zip(model.tasks(batch, setting), together, strict=True):
            assert one.part == many.part
            for measure in ("flop", "hbm_bytes", "link_bytes"):
                found = np.broadcast_to(getattr(many.op, measure)(), (3,))[i]
                assert found == pytest.approx(getattr(one.op, measure)(), rel=1e-12), (one.part, measure)


@given(d_ff=st.integers(1, 64), tokens=st.integers(1, 10_000), gated=st.booleans())
def test_one_expert_chosen_by_all_is_a_dense_ffn(d_ff: int, tokens: int, gated: bool) -> None:
    moe, dense = Moe(experts=1, top_k=1, d_ff=8 * d_ff, gated=gated), Ffn(d_ff=8 * d_ff, gated=gated)
    assert moe.weights(D).experts == moe.weights(D).active_experts == dense.weights(D).linear
    assert moe.parameters(D) == dense.parameters(D) + D
    expert = moe.experts_op(float(tokens), D, Setting())
    assert expert.flop() == gemm_flop(dense.token_tasks(float(tokens), D, Setting()))


def test_eight_bit_products_have_their_inputs_quantised_once_each() -> None:
    """About 3 m k bytes a product (facts on kernel forms): bf16 read, 8 bits written; none in 16 bits."""
    model = load_model("qwen3-30b-a3b")
    fp8 = Precision(weights="fp8", activations="fp8")
    passes = [t for t in model.token_tasks(8.0, Setting(precision=fp8)) if t.part.endswith(".quantize")]
    assert {t.part for t in passes} == {f"{p}.quantize" for p in ("attention.qkv", "attention.out", "moe.experts")}
    assert {t.op.hbm_bytes() for t in passes if t.part.startswith("moe")} == {3 * 8 * 2048}
    assert not [t for t in model.token_tasks(8.0, Setting()) if t.part.endswith(".quantize")]


def test_one_all_reduce_after_each_block_and_one_after_the_embedding() -> None:
    model = load_model("llama-3.1-8b")
    reduces = [t for t in model.token_tasks(10.0, Setting(tp=4)) if isinstance(t.op, AllReduce)]
    assert sum(t.count for t in reduces) == 2 * 32 + 1
    assert {t.op.bytes for t in reduces} == {10 * 4096 * 2}


def test_experts_spread_over_attention_ranks_are_reached_by_dispatch_and_combine() -> None:
    model = load_model("deepseek-v3")
    setting = Setting(tp=1, dp=16, ep=16, precision=model.precision)
    tasks = {t.part: t for t in model.token_tasks(32.0, setting)}
    dispatch, combine, experts = (tasks[f"moe.{part}"].op for part in ("dispatch", "combine", "experts"))
    assert isinstance(dispatch, MoeDispatch)
    assert isinstance(combine, MoeCombine)
    assert isinstance(experts, MoeFfn)
    assert (dispatch.ranks, dispatch.nodes, dispatch.tokens, dispatch.groups) == (16, 2, 32.0, 4)
    assert (dispatch.dtype, combine.dtype) == ("fp8", "bf16")
    assert experts.tokens == 32 * 16
    assert "moe.allreduce" not in tasks


def test_experts_of_one_attention_rank_need_no_dispatch() -> None:
    parts = {t.part for t in load_model("mixtral-8x7b").token_tasks(32.0, Setting(tp=4, ep=4))}
    assert "moe.allreduce" in parts
    assert not {"moe.dispatch", "moe.combine"} & parts


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"tp": 3}, "tp 3 does not divide the 8 attention heads"),
        ({"ep": 16, "dp": 16}, "ep 16 does not divide the 8 experts"),
        ({"ep": 3, "tp": 2}, r"ep 3 does not divide tp\*dp"),
        ({"tp": 0}, "tp 0 must be at least 1"),
    ],
)
def test_a_split_that_does_not_divide_names_both_numbers(setting: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        model_of(SPLIT["attention"], COPIED["moe"]).token_tasks(1.0, Setting(**setting))


def test_a_window_caps_what_a_decode_step_reads() -> None:
    block = Attention(heads=8, kv_heads=4, head_dim=32, window=128)
    (inside,) = block.decode_by_window(1.0, 100.0, Setting())[128.0]
    (beyond,) = block.decode_by_window(1.0, 5000.0, Setting())[128.0]
    assert inside.op.hbm_bytes() < beyond.op.hbm_bytes()
    assert beyond.op.hbm_bytes() == block.decode_by_window(1.0, 128.0, Setting())[128.0][0].op.hbm_bytes()


def test_an_indexer_scores_all_keys_and_attends_to_the_chosen() -> None:
    indexer = Indexer(heads=4, head_dim=128, top_k=512)
    block = Attention(heads=8, kv_heads=4, head_dim=32, indexer=indexer)
    parts = block.decode_by_window(1.0, 10_000.0, Setting())
    assert set(parts) == {512.0, math.inf}
    scores = parts[math.inf][0].op
    assert scores.flop() == 2 * 4 * 128 * 10_000
    assert scores.hbm_bytes() == pytest.approx(128 * 10_000, rel=0.01)
    assert parts[512.0][0].op.flop() == 4 * 8 * 32 * 512


def test_contexts_are_the_windows_of_all_blocks() -> None:
    model = model_of(Attention(heads=8, kv_heads=4, head_dim=32, window=128), SPLIT["attention"], SPLIT["mamba2"])
    assert model.contexts() == (math.inf, 128.0)
    assert load_model("mamba2-2.7b").contexts() == ()


def test_state_bytes_follow_the_dtype_of_the_state() -> None:
    """Mamba-2 2.7B: 80 heads x 64 x 128 a layer, and a convolution over 5120 + 2 x 128 channels."""
    model = load_model("mamba2-2.7b")
    recurrent, conv = 64 * 80 * 64 * 128, 64 * 3 * (5120 + 256)
    assert model.state_bytes(Precision(state="fp32")) == recurrent * 4 + conv * 2
    assert model.state_bytes(Precision(state="bf16")) == (recurrent + conv) * 2


@pytest.mark.parametrize(("tp", "ep"), [(1, 1), (4, 1), (4, 4)])
def test_tensor_parallel_devices_hold_the_model_and_copies_of_what_is_kept(tp: int, ep: int) -> None:
    model = load_model("qwen3-30b-a3b")
    kept = sum(n * b.stored(model.d_model).kept for b, n in model.blocks) + model.d_model
    held = tp * model.device_weight_bytes(Setting(tp=tp, ep=ep))
    assert held == model.weight_bytes() + 2 * (tp - 1) * kept


def test_attention_ranks_hold_copies_of_all_but_the_experts() -> None:
    model = load_model("qwen3-30b-a3b")
    stored = model.stored()
    held = 4 * model.device_weight_bytes(Setting(dp=4, ep=4))
    assert held == model.weight_bytes() + 3 * 2 * (stored.total - stored.experts)


def test_shared_weights_are_stored_once_a_copy() -> None:
    block = COPIED["shared_transformer"]
    assert isinstance(block, SharedTransformer)
    two = model_of(block).parameters()
    layers = Model(
        name="more",
        source="a test",
        d_model=D,
        vocab=1024,
        max_context=4096,
        layers=(LayerGroup(count=9, blocks=(block,)),),
    )
    assert layers.parameters() - two == 7 * block.weights(D).total
    assert two - model_of(block.model_copy(update={"copies": 1})).parameters() == block.shared(D).total


def test_a_draft_of_deepseek_runs_its_module_and_the_head() -> None:
    model = load_model("deepseek-v3")
    tasks = model.mtp_tasks(8.0, 1000.0, Setting(precision=model.precision))
    parts = {t.part for t in tasks}
    assert {"mtp.projection", "moe.experts", "attention.core", "head.lm_head"} <= parts
    assert not load_model("llama-3.1-8b").mtp_tasks(8.0, 1000.0, Setting())


def test_pipeline_stages_hold_the_layers_between_them() -> None:
    """126 layers on 4 stages are 32, 32, 31 and 31; the first has the embedding, the last the head and final norm."""
    model = load_model("llama-3.1-405b")
    assert [sum(n for _, n in stage) // 2 for stage in model.stages(4)] == [32, 32, 31, 31]
    layer = sum(block.parameters(16384) for block, _ in model.blocks)
    assert model.device_weight_bytes(Setting(pp=4)) == 2 * (32 * layer + 128256 * 16384)
    with pytest.raises(InputError, match="pp 127 is more than the 126 layers"):
        model.stages(127)


def test_pipeline_stages_send_the_stream_on() -> None:
    sends = [t for t in load_model("llama-3.1-8b").token_tasks(8.0, Setting(pp=4)) if t.part == "pipeline.send"]
    assert [(t.count, t.op.link_bytes()) for t in sends] == [(3, 8 * 4096 * 2)]


def test_eager_pointwise_work_is_most_of_the_unexplained_time_of_the_twell_paper() -> None:
    """Facts on TwELL: some 16 of about 40 ms a layer, 131,072 tokens, are norms, rotary, residuals and activation.

    Counted on the modules' operations at 2.9 TB/s (what an H100 SXM streams).
    """
    layers = 28
    tasks = load_model("twell-1.5b").token_tasks(131_072.0, Setting(fused=False))
    moved = sum(t.count * t.op.hbm_bytes() for t in tasks if isinstance(t.op, Pointwise)) / layers
    assert moved / 2.9e12 == pytest.approx(16e-3, rel=0.15)


@pytest.mark.parametrize("name", sorted(set(model_names()) - {"zamba2-2.7b", "s4d-67k", "s4d-265k"}))
def test_every_model_costs_about_two_flop_per_active_parameter(name: str) -> None:
    """Of a token without context: convolutions, norms and decays, which are no products, are up to 0.7 %.

    Zamba2 passes its two shared blocks nine times; half of S4D's parameters are dynamics of single elements.
    """
    model = load_model(name)
    setting = Setting(precision=model.precision)
    tasks = [*model.token_tasks(1.0, setting), *model.head_tasks(1.0, setting)]
    tasks += model.decode_by_window(1.0, 2.0, setting).get(0.0, [])
    flop = gemm_flop(tasks) + sum(t.count * t.op.flop() for t in tasks if isinstance(t.op, MoeFfn))
    assert flop == pytest.approx(2 * model.active_parameters(embedding=False), rel=0.007)


def test_eager_passes_move_more_bytes_than_fused_kernels() -> None:
    model = load_model("llama-3.1-8b")

    def moved(fused: bool) -> Any:
        return sum(t.count * t.op.hbm_bytes() for t in model.token_tasks(4096.0, Setting(fused=fused)))

    assert moved(False) > 1.3 * moved(True)
    whole = gemm_flop(model.token_tasks(1.0, Setting(fused=False)))
    assert whole == gemm_flop(model.token_tasks(1.0, Setting()))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"weights": "bf17"}, "unknown dtype 'bf17'"),
        ({"weights": "fp32"}, "wider than the activations"),
    ],
)
def test_precision_names_what_it_does_not_accept(fields: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Precision(**fields)


def test_a_quantised_head_is_stored_so() -> None:
    model = load_model("llama-3.1-8b")
    table = 128256 * 4096
    saved = model.weight_bytes() - model.weight_bytes(Precision(head="int4-g128"))
    assert saved == pytest.approx(table * (2 - 0.5 - 2.5 / 128))


def test_every_kind_of_block_has_a_schema_for_editors() -> None:
    schema = ModelFile.model_json_schema()
    layers = json.dumps(schema["properties"]["blocks"])
    assert all(f'"const": "{kind}"' in layers for kind in EVERY)


def test_more_active_experts_than_experts_are_refused() -> None:
    with pytest.raises(ValueError, match="9 experts a token are more than the 8"):
        Moe(experts=8, top_k=9, d_ff=16)
