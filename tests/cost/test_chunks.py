"""Equal prompt chunks of a step are one kernel."""

from __future__ import annotations

import pytest

from sparsesim.cost.accumulate import TIME
from sparsesim.cost.kernel import cost_model
from sparsesim.cost.tables import StepTables
from sparsesim.hardware.profile import load_device
from sparsesim.model.setting import Setting
from sparsesim.model.zoo import load_model


@pytest.fixture(scope="module")
def tables() -> StepTables:
    return StepTables(load_model("llama-3.1-8b"), Setting(), cost_model(load_device("h100-sxm")))


def seconds(tables: StepTables, chunks: list[tuple[int, int]], groups: int = 1) -> float:
    return sum(row[TIME] for row in tables.chunks(chunks, groups))


def test_one_kernel_over_many_prompts_is_faster_than_one_each(tables: StepTables) -> None:
    """One prompt of 256 tokens has 64 blocks of queries and heads for 132 multiprocessors."""
    alone = seconds(tables, [(256, 256)])
    assert 4 * alone < seconds(tables, [(256, 256)] * 16) < 12 * alone


def test_unequal_chunks_are_added_up(tables: StepTables) -> None:
    both = seconds(tables, [(512, 512), (300, 1000)])
    assert both == pytest.approx(seconds(tables, [(512, 512)]) + seconds(tables, [(300, 1000)]))


@pytest.mark.parametrize(("number", "groups"), [(1, 4), (4, 4), (6, 4), (16, 4)])
def test_ranks_share_the_chunks(tables: StepTables, number: int, groups: int) -> None:
    """Up to one each the time is that of one; beyond, that of the mean number."""
    found = seconds(tables, [(512, 512)] * number, groups)
    if number <= groups:
        assert found == pytest.approx(seconds(tables, [(512, 512)]))
    else:
        low, high = (seconds(tables, [(512, 512)] * n) for n in (number // groups, -(-number // groups)))
        assert low <= found <= high
