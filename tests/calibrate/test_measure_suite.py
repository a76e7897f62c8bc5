"""Suites make the rows they say: shapes x grid x Sobol points, within limits, the same on every machine."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

pytest.importorskip("torch")

from sparsesim.calibrate.measure.sampling import Axis, points
from sparsesim.calibrate.measure.suite import SUITES, Suite, cell, load, parse
from sparsesim.errors import InputError
from sparsesim.work import Gemm


def suite(**block: Any) -> Suite:
    return parse("t", {"seed": 3, "block": [{"op": "gemm", **block}]})


def test_rows_are_the_product_of_shapes_and_grid() -> None:
    rows = suite(columns=["n", "k"], shapes=[[64, 128], [32, 16]], grid={"m": [1, 2, 3]}).rows
    assert {(row.op.n, row.op.k, row.op.m) for row in rows} == {  # type: ignore[attr-defined]
        (n, k, m) for n, k in ((64, 128), (32, 16)) for m in (1, 2, 3)
    }


def test_limits_drop_a_grid_row_and_redraw_a_sobol_point() -> None:
    sizes = {"m": {"low": 1, "high": 1024}, "n": {"low": 64, "high": 4096, "multiple": 64}}
    rows = suite(fixed={"k": 512}, sobol={"count": 32, **sizes}, limits={"flop": 2e8}).rows
    assert len(rows) == 32
    assert all(row.op.flop() <= 2e8 for row in rows)
    assert not suite(grid={"m": [4096]}, fixed={"n": 4096, "k": 4096}, limits={"flop": 1e9}).rows


def test_four_consecutive_sobol_points_fall_into_four_quarters() -> None:
    drawn = points({"m": Axis(of=(0, 1, 2, 3))}, seed=5)
    for _ in range(8):
        assert sorted(next(drawn)["m"] for _ in range(4)) == [0, 1, 2, 3]


def test_a_logarithmic_axis_has_as_many_small_sizes_as_large() -> None:
    drawn = points({"m": Axis(low=1, high=16384)}, seed=1)
    sizes = [next(drawn)["m"] for _ in range(512)]
    below = sum(size < 128 for size in sizes)
    assert 240 <= below <= 272  # 128 is the geometric mean of 1 and 16384
    assert min(sizes) >= 1
    assert max(sizes) <= 16384


def test_a_derived_column_is_the_sum_and_its_helper_is_dropped() -> None:
    block = {
        "op": "attention_prefill",
        "fixed": {"batch": 1, "heads": 8, "kv_heads": 2, "head_dim": 64},
        "grid": {"q_tok": [128], "past_tok": [1000]},
        "derive": {"kv_tok": "q_tok + past_tok"},
    }
    (row,) = parse("t", {"block": [block]}).rows
    assert (row.op.q_tok, row.op.kv_tok) == (128, 1128)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"op": "gemmm"}, "op is 'gemmm'; accepted: gemm"),
        ({"op": "gemm", "grid": {"m": [1], "nn": [2], "k": [3]}}, "gemm has no column 'nn'; did you mean 'n'"),
        ({"op": "gemm", "grid": {"m": [1]}}, "needs the column.s. n, k"),
        ({"op": "gemm", "girdd": {}}, "unknown key 'girdd'"),
        ({"op": "gemm", "fixed": {"n": 1, "k": 1}, "sobol": {"m": {"low": 0, "high": 4}}}, "sobol column 'm'"),
        ({"op": "gemm", "fixed": {"n": 1, "k": 1, "m": 1}, "derive": {"k": "q"}}, "no column 'q'"),
    ],
)
def test_a_fault_names_the_place_and_what_is_accepted(block: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse("t", {"block": [block]})


def test_an_unknown_suite_is_named_with_those_there_are() -> None:
    with pytest.raises(InputError, match=r"no suite 'gem'.*attention.*gemm"):
        load("gem")


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.toml")), ids=lambda p: p.stem)
def test_every_suite_in_the_tree_loads_twice_alike(path: Any) -> None:
    first, second = load(path.stem), load(path.stem)
    assert first == second
    assert first.rows or first.quantities
    assert len({row.key() for row in first.rows}) == len(first.rows)


def test_cheap_rows_come_before_energy_rows() -> None:
    order = [row.energy for row in load("gemm").rows]
    assert order == sorted(order)
    assert any(order)


def test_the_gemm_suite_spreads_its_rows_as_the_fitting_recipe_asks() -> None:
    rows = [row for row in load("gemm").rows if row.op.dtype == "bf16" and not row.energy]  # type: ignore[attr-defined]
    by_group = Counter(row.group.split()[0] for row in rows)
    assert len(rows) >= 300
    assert 0.25 <= by_group["sobol"] / len(rows) <= 0.45  # about one third Sobol, two thirds layers of models
    shapes = Counter((row.op.n, row.op.k) for row in rows)  # type: ignore[attr-defined]
    assert max(shapes.values()) <= 8  # never few (n, k) with many m
    assert any(row.op.m % 2 for row in rows if row.op.m > 100)  # type: ignore[attr-defined]


def test_cells_read_back_as_the_same_op() -> None:
    op = Gemm(m=3.0, n=4096.0, k=0.5)
    assert (cell(op.m), cell(op.k), cell(op.graph), cell(float("inf"))) == ("3", "0.5", "true", "inf")
