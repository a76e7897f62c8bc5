"""Time forms: never above the roofline, monotone in every size, and right where hand arithmetic is possible."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesim.cost.forms import FORMS
from sparsesim.cost.forms.attention import causal_blocks
from sparsesim.cost.forms.base import pnorm, share
from sparsesim.cost.forms.routed import remote_nodes
from sparsesim.cost.forms.sparse_ffn import overflow_share
from sparsesim.hardware.device.gpu import Chip
from sparsesim.work import (
    OPS,
    AllReduce,
    AllToAll,
    AttentionDecode,
    AttentionPrefill,
    Copy,
    Gemm,
    MlaDecode,
    MoeDispatch,
    MoeFfn,
    Op,
    Pointwise,
    Send,
    SparseFfn,
    SsmScan,
    SsmStep,
)

START = {name: {q.name: q.start for q in form.parameters} for name, form in FORMS.items()}
EXAMPLES: list[tuple[Op, tuple[str, ...]]] = [
    (Gemm(m=64.0, n=4096.0, k=4096.0), ("m", "n", "k")),
    (AttentionPrefill(batch=2.0, q_tok=700.0, kv_tok=900.0, heads=32.0, kv_heads=8.0, head_dim=128.0), ("batch",)),
    (AttentionDecode(batch=16.0, kv_tok=1000.0, heads=32.0, kv_heads=8.0, head_dim=128.0), ("batch", "kv_tok")),
    (MlaDecode(batch=16.0, kv_tok=1000.0, heads=16.0, kv_rank=512.0, rope_dim=64.0), ("batch", "kv_tok")),
    (SsmStep(batch=16.0, heads=80.0, head_dim=64.0, state=128.0), ("batch", "heads", "state")),
    (SsmScan(batch=2.0, tokens=2000.0, heads=80.0, head_dim=64.0, state=128.0), ("batch", "tokens", "heads")),
    (MoeFfn(tokens=64.0, d_model=2048.0, d_ff=768.0, experts=128, top_k=8), ("tokens", "d_model", "d_ff")),
    (Pointwise(kind="add_norm", tokens=64.0, width=4096.0), ("tokens", "width")),
    (SparseFfn(tokens=500.0, d_model=2048.0, d_ff=5632.0, nnz=29.0, format="twell"), ("tokens", "d_model")),
    (Copy(bytes=1e8), ("bytes",)),
    (AllReduce(gpus=4.0, bytes=1e6), ("bytes", "gpus")),
    (AllToAll(gpus=4.0, bytes=1e6), ("bytes",)),
    (Send(bytes=1e6), ("bytes",)),
    (MoeDispatch(ranks=16.0, nodes=2.0, tokens=128.0, d_model=7168.0, top_k=8, experts=256), ("tokens", "d_model")),
]  # fmt: skip


def seconds(op: Op, chip: Chip) -> Any:
    return np.asarray(FORMS[op.op].timing(op, START[op.op], chip).time_s, float)


@pytest.mark.parametrize(("op", "sizes"), EXAMPLES, ids=lambda x: getattr(x, "op", None))
@settings(max_examples=25, deadline=None)
@given(low=st.floats(0.02, 50.0), more=st.floats(1.0, 30.0))
def test_more_of_any_size_never_takes_less_time(
    op: Op, sizes: tuple[str, ...], chip: Chip, low: float, more: float
) -> None:
    for size in sizes:
        here = max(round(getattr(op, size) * low), 1)
        there = max(round(here * more), here)
        two = dataclasses.replace(op, **{size: np.array([here, there], float)})
        first, second = seconds(two, chip)
        assert second >= first * (1 - 1e-9)


@pytest.mark.parametrize(("op", "sizes"), EXAMPLES, ids=lambda x: getattr(x, "op", None))
@settings(max_examples=25, deadline=None)
@given(factor=st.floats(0.02, 100.0))
def test_no_size_beats_the_roofline(op: Op, sizes: tuple[str, ...], chip: Chip, factor: float) -> None:
    scaled = dataclasses.replace(op, **{sizes[0]: max(round(getattr(op, sizes[0]) * factor), 1.0)})
    top = {q.name: q.high if q.unit == "1" and q.name in ("peak", "bandwidth", "eff", "link") else q.start
           for q in FORMS[op.op].parameters}  # fmt: skip
    time = np.asarray(FORMS[op.op].timing(scaled, top, chip).time_s)
    flop = np.asarray(scaled.flop()) / chip.peak("bf16")
    hbm = np.asarray(scaled.hbm_bytes()) / chip.bandwidth_bytes_per_s
    assert time >= flop * 0.999
    assert time >= hbm * 0.999


@pytest.mark.parametrize(("op", "sizes"), EXAMPLES, ids=lambda x: getattr(x, "op", None))
def test_arrays_answer_as_scalars_do(op: Op, sizes: tuple[str, ...], chip: Chip) -> None:
    values = np.array([1.0, 3.0, 2.0]) * getattr(op, sizes[0])
    together = seconds(dataclasses.replace(op, **{sizes[0]: values}), chip)
    alone = [float(seconds(dataclasses.replace(op, **{sizes[0]: v}), chip)) for v in values]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_every_op_has_a_form_of_its_name() -> None:
    assert set(FORMS) == set(OPS)


def test_causal_blocks_count_what_a_loop_counts() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        q = int(rng.integers(1, 3000))
        kv = q + int(rng.integers(0, 3000))
        window = float(rng.integers(1, 4000)) if rng.random() < 0.5 else np.inf
        nq = -(-q // 128)
        rows = []
        for i in range(nq):
            seen = -(-(kv - q + min(128 * (i + 1), q)) // 128)
            rows.append(seen if np.isinf(window) else min(seen, int(np.ceil(window / 128)) + 1))
        blocks = causal_blocks(float(q), float(kv), window)
        ragged = 0 if q % 128 == 0 else 1  # the closed form counts a partial last row as a full one at most
        assert blocks[0] == nq
        assert abs(float(blocks[1]) - sum(rows)) <= ragged * max(rows)
        assert blocks[2] == max(rows)


def test_the_memory_bound_limit_is_bytes_over_bandwidth(chip: Chip) -> None:
    op = Gemm(m=1.0, n=131072.0, k=16384.0)
    p = START["gemm"]
    floor = (2 * 131072 * 16384) / (p["bandwidth"] * 3.35e12)
    assert float(seconds(op, chip)) == pytest.approx(floor, rel=0.03)


def test_the_compute_bound_limit_is_flop_over_peak(chip: Chip) -> None:
    op = Gemm(m=16384.0, n=16384.0, k=16384.0)
    floor = 2 * 16384**3 / (START["gemm"]["peak"] * 989e12)
    assert float(seconds(op, chip)) == pytest.approx(floor, rel=0.06)


def test_pnorm_lies_between_the_maximum_and_the_sum() -> None:
    assert float(pnorm(2.0, 3.0, 4.0)) == pytest.approx(5.0)
    assert float(pnorm(16.0, 3.0, 4.0)) == pytest.approx(4.0, rel=0.01)
    assert float(share(2.0, 3.0, 4.0) + share(2.0, 4.0, 3.0)) == pytest.approx(1.0)


def test_remote_nodes_of_deduplicated_routing() -> None:
    """One expert a token: it leaves its node with probability (N-1)/N; two of two nodes: 2 (1 - 1/4) / 2 = 0.75."""
    assert float(remote_nodes(4.0, 1, 0)) == pytest.approx(0.75)
    assert float(remote_nodes(2.0, 2, 0)) == pytest.approx(0.75)
    assert float(remote_nodes(8.0, 8, 4)) < float(remote_nodes(8.0, 8, 0))


def test_one_rank_sends_nothing(chip: Chip) -> None:
    assert float(seconds(AllReduce(gpus=1.0, bytes=1e9), chip)) == 0.0


def test_a_faster_link_is_never_slower(chip: Chip) -> None:
    fast = dataclasses.replace(chip, link_bytes_per_s=2 * chip.link_bytes_per_s)
    for op in (AllReduce(gpus=8.0, bytes=1e8), AllToAll(gpus=8.0, bytes=1e8), Send(bytes=1e8)):
        assert seconds(op, fast) < seconds(op, chip)


def test_skew_costs_and_never_saves(chip: Chip) -> None:
    skews = np.linspace(1.0, 1.9, 30)
    times = seconds(AllToAll(gpus=4.0, bytes=1e8, skew=skews), chip)
    assert (np.diff(times) >= -1e-12).all()


def test_a_selective_scan_is_counted_by_elements_of_its_state() -> None:
    """Mamba-1: 9 FLOP for each of tokens x channels x state elements; 8 x 1000 x 5120 x 16 of them."""
    scan = SsmScan(batch=8.0, tokens=1000.0, heads=5120.0, head_dim=1.0, state=16.0, kind="mamba1")
    assert scan.flop() == 9 * 8 * 1000 * 5120 * 16
    chunked = dataclasses.replace(scan, kind="mamba2")
    assert chunked.flop() > 10 * scan.flop()


def sparse_s(chip: Chip, **changed: Any) -> float:
    op = SparseFfn(**({"tokens": 4096.0, "d_model": 2048.0, "d_ff": 5632.0, "nnz": 29.0, "format": "twell"} | changed))
    return float(seconds(op, chip))


def test_rows_that_overflow_are_those_of_the_law_and_cost_their_dense_products(chip: Chip) -> None:
    """At 300 uniform active neurons of 1024 every tile of 256 holds about 75, beyond its 31 slots."""
    op = SparseFfn(tokens=4096.0, d_model=1024.0, d_ff=1024.0, nnz=300.0, pattern="independent", format="twell")
    assert float(overflow_share(op)) == pytest.approx(1.0)
    assert float(overflow_share(dataclasses.replace(op, nnz=4.0))) == pytest.approx(0.0, abs=1e-9)
    assert float(overflow_share(dataclasses.replace(op, format="csr"))) == 0.0
    spilled = 4096 * 6 * 1024 * 1024 / (START["sparse_ffn"]["spilled"] * chip.peak("bf16"))
    full = sparse_s(chip, d_model=1024.0, d_ff=1024.0, nnz=300.0, pattern="independent")
    empty = sparse_s(chip, d_model=1024.0, d_ff=1024.0, nnz=0.0, pattern="independent")
    assert full - empty == pytest.approx(spilled - 4096 * START["sparse_ffn"]["t_token"], rel=1e-6)


def test_a_single_tokens_entries_are_a_chain(chip: Chip) -> None:
    """One token of 100 against 200 entries: 100 t_entry more, whatever the caches could stream."""
    more = sparse_s(chip, tokens=1.0, nnz=200.0) - sparse_s(chip, tokens=1.0, nnz=100.0)
    assert more == pytest.approx(100 * START["sparse_ffn"]["t_entry"], rel=0.01)


def test_a_scan_pays_whole_programs_a_multiprocessor(chip: Chip) -> None:
    """132 heads are one program on each of 132 multiprocessors, 133 are two on one of them."""
    one, two, still = (
        float(seconds(SsmScan(batch=1.0, tokens=8192.0, heads=heads, head_dim=64.0, state=128.0), chip))
        for heads in (132.0, 133.0, 264.0)
    )
    assert two > 1.05 * one
    assert still == pytest.approx(two, rel=0.02)
