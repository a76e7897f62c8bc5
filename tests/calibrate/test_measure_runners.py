"""Runners compute what their op says: attention's masks, skewed loads, uneven splits; and the ranks go in step."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from sparsesim.calibrate.measure import ranks, session  # noqa: E402
from sparsesim.calibrate.measure.bench import Bench, CpuBench, TimingPlan  # noqa: E402
from sparsesim.calibrate.measure.buffers import Arena, NoRoomError  # noqa: E402
from sparsesim.calibrate.measure.collectives import shares  # noqa: E402
from sparsesim.calibrate.measure.plan import UnsupportedError  # noqa: E402
from sparsesim.calibrate.measure.runners import RUNNERS, attention, eager, memory, moe, prepare  # noqa: E402
from sparsesim.calibrate.measure.suite import Row, load  # noqa: E402
from sparsesim.calibrate.measure.table import read  # noqa: E402
from sparsesim.work import OPS, AttentionDecode, AttentionPrefill, Gemm, MoeFfn, Op, Pointwise  # noqa: E402
from sparsesim.work.memory import EAGER_PASSES, PASSES  # noqa: E402


@pytest.fixture
def bench() -> Bench:
    return CpuBench(TimingPlan(samples=2), input_gb=4e-3, output_gb=2e-3, seed=0)


def test_tensors_of_an_arena_do_not_overlap_and_run_out() -> None:
    arena = Arena(4096, "cpu", seed=1)
    first, second = arena.take(100), arena.take(7, dtype="fp32")
    assert second.data_ptr() >= first.data_ptr() + 200
    assert bool(torch.isfinite(second).all())
    with pytest.raises(NoRoomError, match="GB asked for"):
        arena.take(4000)
    arena.reset()
    assert arena.take(100).data_ptr() == first.data_ptr()


@pytest.mark.parametrize("op", [
    Gemm(m=3.0, n=80.0, k=48.0),
    AttentionPrefill(batch=2.0, q_tok=40.0, kv_tok=40.0, heads=4.0, kv_heads=2.0, head_dim=16.0),
    AttentionPrefill(batch=1.0, q_tok=10.0, kv_tok=50.0, heads=4.0, kv_heads=2.0, head_dim=16.0, window=7.0),
    AttentionDecode(batch=3.0, kv_tok=90.0, heads=4.0, kv_heads=1.0, head_dim=16.0),
    AttentionDecode(batch=3.0, kv_tok=90.0, heads=4.0, kv_heads=1.0, head_dim=16.0, window=20.0),
])  # fmt: skip
def test_an_op_is_right_on_the_host(op: Op, bench: Bench) -> None:
    cells = session.measure(Row(op, "t"), bench, prepare)
    assert float(cells["relative_error"]) < 1e-2
    assert float(cells["measured_time_s"]) > 0.0


def test_the_reference_of_attention_sees_the_window_and_nothing_later() -> None:
    q, k = torch.zeros(1, 2, 1, 4), torch.zeros(1, 6, 1, 4)
    v = torch.arange(6.0).view(1, 6, 1, 1).expand(1, 6, 1, 4)
    queries = [(0, 0, 0), (0, 1, 0)]
    # equal scores: the mean of the values seen; query 0 of 2 new among 6 sees keys 0..4, query 1 keys 0..5
    assert attention.reference(q, k, v, math.inf, queries)[:, 0].tolist() == [2.0, 2.5]
    assert attention.reference(q, k, v, 3, queries)[:, 0].tolist() == [3.0, 4.0]


def test_a_decode_window_reads_only_its_slice(bench: Bench) -> None:
    op = AttentionDecode(batch=1.0, kv_tok=500.0, heads=2.0, kv_heads=1.0, head_dim=16.0, window=64.0)
    (candidate,) = attention.decode(op, bench)
    assert candidate.calls[0].args[0].k.shape[1] == 64  # type: ignore[attr-defined]


def test_every_pointwise_kind_of_the_vocabulary_has_its_kernel() -> None:
    assert set(memory.PASSES) == set(PASSES) - set(EAGER_PASSES)
    assert set(eager.EAGER) == set(EAGER_PASSES)


@pytest.mark.parametrize("kind", EAGER_PASSES)
@pytest.mark.parametrize("tokens", [7.0, 2048.0])
def test_an_eager_pass_is_right_on_the_host(kind: str, tokens: float, bench: Bench) -> None:
    op = Pointwise(kind=kind, tokens=tokens, width=128.0, dtype=eager.EAGER[kind][2])
    cells = session.measure(Row(op, "t"), bench, prepare)
    assert float(cells["relative_error"]) < 1e-2


def test_an_eager_pass_moves_the_bytes_that_are_counted(bench: Bench) -> None:
    """Of its inputs and its output, but for factors a row, a column or a place of a head."""
    tokens, width = 256.0, 512.0
    for kind, (make, call, dtype) in eager.EAGER.items():
        op = Pointwise(kind=kind, tokens=tokens, width=width, dtype=dtype)
        inputs = make(op, bench)
        whole = [t for t in (*inputs, call(*inputs)) if t.numel() * 2 >= tokens * width and 0 not in t.stride()]
        assert sum(t.numel() * t.element_size() for t in whole) == op.hbm_bytes()
        bench.inputs.reset()


@pytest.mark.parametrize(("q_tok", "window"), [(33, math.inf), (9, math.inf), (33, 8.0)])
def test_the_query_gradient_is_autograds(q_tok: int, window: float) -> None:
    generator = torch.Generator().manual_seed(1)
    q, g = (torch.randn(1, q_tok, 2, 16, generator=generator) for _ in range(2))
    k, v = (torch.randn(1, 33, 1, 16, generator=generator) for _ in range(2))
    leaf = q.clone().requires_grad_()
    distance = torch.arange(33 - q_tok, 33)[:, None] - torch.arange(33)[None]
    mask = (distance >= 0) & (distance < window)
    heads = (t.transpose(1, 2) for t in (leaf, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=mask, enable_gqa=True)
    out.transpose(1, 2).backward(g)
    assert torch.allclose(attention.query_gradient(q, k, v, g, window), leaf.grad[0, :, 0], atol=1e-5)


def test_every_kernel_of_the_vocabulary_has_a_runner_or_is_a_message() -> None:
    messages = {"all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send", "moe_dispatch", "moe_combine"}
    by_benchmark = {"sparse_ffn_train"}  # calibration/kernels/bench_twell.py times whole training layers
    assert set(RUNNERS) | messages | by_benchmark == set(OPS)


def test_native_passes_are_right_on_the_host(bench: Bench) -> None:
    for kind in ("softmax", "embedding", "sample", "write"):
        cells = session.measure(Row(Pointwise(kind=kind, tokens=5.0, width=96.0), "t"), bench, prepare)
        assert float(cells["relative_error"]) < 1e-2


def test_rows_of_the_busiest_rank_outnumber_the_mean_and_all_are_local() -> None:
    op = MoeFfn(tokens=600.0, d_model=8.0, d_ff=8.0, experts=32, top_k=4, ep=8, load="zipf")
    rows = moe.assignments(op, seed=2)
    assert rows.shape[1] == 1
    assert rows.max() < 4
    assert len(rows) > 600 * 4 / 8


def test_without_ranks_every_token_keeps_its_distinct_experts() -> None:
    rows = moe.assignments(MoeFfn(tokens=50.0, d_model=8.0, d_ff=8.0, experts=16, top_k=4), seed=0)
    assert rows.shape == (50, 4)
    assert all(len(set(row)) == 4 for row in rows.tolist())


def test_a_hot_expert_is_as_popular_as_it_says() -> None:
    hot = moe.popularity("hot:4", 8)
    assert hot[0] / hot[1] == pytest.approx(4.0)
    assert np.sum(hot) == pytest.approx(1.0)
    with pytest.raises(UnsupportedError, match="load 'normal'"):
        moe.popularity("normal", 8)


def test_the_busier_direction_of_two_carries_skew_times_the_mean() -> None:
    # rank 1 sends shares[0] over the link, rank 0 sends shares[1]; the mean is half the buffer
    assert shares(1000, 2, 1.4) == [700, 300]
    assert shares(1000, 2, 1.0) == [500, 500]
    assert sum(shares(1001, 4, 1.3)) == 1001
    with pytest.raises(UnsupportedError, match="between 1 and the 2 ranks"):
        shares(1000, 2, 2.5)


def test_two_ranks_measure_messages_in_step(tmp_path: Path) -> None:
    path = tmp_path / "pair.toml"
    blocks = [
        f'[[block]]\nop = "{op}"\nfixed = {{ gpus = 2 }}\ngrid = {{ bytes = [2048] }}\n'
        for op in ("all_reduce", "all_gather", "reduce_scatter", "send")
    ]
    skewed = '[[block]]\nop = "all_to_all"\nfixed = { gpus = 2 }\ngrid = { bytes = [2048], skew = [1.0, 1.5] }\n'
    path.write_text("gpus = 2\n" + "".join(blocks) + skewed)
    assert ranks.measure(load(str(path)), tmp_path, 60.0, device="cpu") == 0
    _, rows = read(tmp_path / "pair.csv")
    assert len(rows) == 6
    assert all(float(row["relative_error"]) < 1e-2 and float(row["measured_time_s"]) > 0 for row in rows)
