"""Jetson boards against the published MLC rows, and what the same constants say of rows and boards not fitted on."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sparsesim.cost.edge.framework import PAIRS, gap_s, generate_times, modelled
from sparsesim.cost.edge.mlc import (
    BANDWIDTH,
    BOARDS,
    PRECISION,
    TRANSFERRED,
    LeftOut,
    fit_constants,
    leave_one_model_out,
    load_board,
    mlc_rows,
)
from sparsesim.cost.edge.single import Single
from sparsesim.cost.kernel import cost_model
from sparsesim.cost.neuromorphic.claims import figure
from sparsesim.errors import InputError
from sparsesim.hardware.engine import load_engine
from sparsesim.loading import data_root
from sparsesim.model import load_model


def single(board: str, model: str, engine: str = "mlc") -> Single:
    return Single(load_model(model), PRECISION, cost_model(load_board(board)), load_engine(engine))


def rate(board: str, model: str, engine: str = "mlc") -> float:
    return float(1.0 / single(board, model, engine).decode(256.0)[0])


@pytest.fixture(scope="module")
def left_out() -> tuple[LeftOut, ...]:
    return leave_one_model_out(mlc_rows())


def test_fourteen_rows_leave_one_model_out_within_the_tolerances(left_out: tuple[LeftOut, ...]) -> None:
    errors = [row.error for row in left_out]
    assert len(errors) == 14
    assert np.median(errors) <= 0.10
    assert np.mean(errors) <= 0.18


def test_only_gemma_2_is_off_by_more_than_a_fifth(left_out: tuple[LeftOut, ...]) -> None:
    """Gemma-2-9B runs far slower than bytes, kernels and logits explain: 5.2 GB of weights nearly fill 8 GB of memory
    shared with a host, and from the original to Super it gains 1.28x where every other model gains 1.35 to 1.63x.
    """
    off = {(row.row.model, row.row.board) for row in left_out if row.error > 0.20}
    assert {model for model, _ in off} == {"gemma-2-2b", "gemma-2-9b"}
    gemma = [row for row in left_out if row.row.model.startswith("gemma")]
    assert all(row.ratio > 1 for row in gemma)
    others = [row.error for row in left_out if not row.row.model.startswith("gemma")]
    assert np.mean(others) < 0.10


def test_profiles_and_engine_hold_what_the_command_fits() -> None:
    constants = fit_constants(mlc_rows())
    document = json.loads((data_root() / "hwprofiles" / "fits" / "engines" / "mlc.json").read_text())
    assert constants == pytest.approx(document["constants"], rel=0.02)
    assert load_engine("mlc").host_per_logit.value == pytest.approx(constants["host_per_logit"], rel=0.02)


def test_a_row_outside_the_fit_is_met() -> None:
    """Llama-3.2-1B on the original Orin Nano, from another page of the same source."""
    assert rate("jetson-orin-nano", "llama-3.2-1b") == pytest.approx(figure("slm_on_1b"), rel=0.10)


@pytest.mark.parametrize("board", [*BOARDS.values(), *TRANSFERRED])
def test_decode_is_never_faster_than_its_bytes_on_any_board(board: str) -> None:
    for model in ("llama-3.1-8b", "llama-3.2-1b", "gemma-2-2b"):
        found = load_model(model)
        bytes_read = (found.active_parameters(embedding=False) - found.d_model * found.vocab * found.tied) * 0.5625
        bound = load_board(board).memory.bandwidth.value * BANDWIDTH / bytes_read
        assert rate(board, model) < bound


def test_boards_order_by_bandwidth_and_clock() -> None:
    rates = [rate(b, "llama-3.1-8b") for b in ("jetson-orin-nano", "jetson-orin-nano-super", "jetson-agx-orin")]
    assert rates == sorted(rates)
    assert rate("jetson-agx-thor", "llama-3.1-8b") > rates[-1]


def test_halving_kernels_fixed_time_helps_small_models_more() -> None:
    """Below half a billion parameters a fixed time per kernel dominates."""
    small, large = (single("jetson-orin-nano-super", m) for m in ("qwen2.5-0.5b", "llama-3.1-8b"))
    shares = []
    for one in (small, large):
        kernels = one.costs.fit.classes["gemm.fp16"].parameters["t0"]
        tasks = one.model.layer_count * 10
        shares.append(tasks * kernels / float(one.decode(256.0)[0]))
    assert shares[0] > 3 * shares[1]


def test_power_modes_slow_the_clock_and_lower_the_cap() -> None:
    board = load_board("jetson-orin-nano-super")
    slow = board.in_mode("15 W")
    assert slow.power.cap.value == 15.0
    assert slow.memory.bandwidth.value == load_board("jetson-orin-nano").memory.bandwidth.value
    assert slow.compute["fp16"].value == pytest.approx(board.compute["fp16"].value * 612 / 1020)
    with pytest.raises(InputError, match=r"has no mode '12 W'.*15 W"):
        board.in_mode("12 W")


def test_transferred_boards_are_marked_so() -> None:
    assert all(load_board(name).transferred for name in TRANSFERRED)
    assert not any(load_board(name).transferred for name in BOARDS.values())


def test_frameworks_of_the_500m_rows_wait_tens_of_microseconds_a_kernel() -> None:
    """Their 13-15 tokens/s are no device capability: the board's own engine gives four times as much."""
    for pair in PAIRS:
        gap = gap_s(pair)
        assert gap == pytest.approx(load_engine(pair.engine).gap.value, rel=0.1)
        for length, seconds in generate_times(pair).items():
            assert modelled(pair, gap, length) == pytest.approx(seconds, rel=0.12)
    assert rate("jetson-orin-nano", "qwen2.5-0.5b") > 4 * figure("lo2_qwen2_gen_tput_500")


def test_the_matmul_free_model_on_an_h100_is_bound_by_launches() -> None:
    """Without the gap a token would take a few milliseconds; the published 13.4 tokens/s is 74.6 ms."""
    pair = next(p for p in PAIRS if p.engine == "matmulfree-reference")
    assert modelled(pair, 0.0, 500) < 0.1 * 74.6e-3
    assert modelled(pair, load_engine(pair.engine).gap.value, 500) == pytest.approx(1 / 13.4, rel=0.05)
