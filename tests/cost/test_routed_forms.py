"""Dispatch and combine by a library's all-to-all: bytes by hand, ranks by (n-1)/n, skew by the busiest rank."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from sparsesim.cost.forms import FORMS
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.hardware.profile import load_device
from sparsesim.work import MoeCombine, MoeDispatch

SIZES: dict[str, Any] = {"d_model": 2048.0, "top_k": 8, "experts": 128, "dtype": "bf16", "mode": "all_to_all"}
GPU = load_device("h100-sxm")
assert isinstance(GPU, Gpu)
CHIP = GPU.chip()


def start(op: str) -> Mapping[str, float]:
    return {q.name: q.start for q in FORMS[op].parameters}


def timing(op: MoeDispatch | MoeCombine, **changed: float) -> Any:
    return FORMS[op.op].timing(op, {**start(op.op), **changed}, CHIP)


def test_bytes_of_a_rank_by_hand() -> None:
    """8,192 tokens x 8 x 2,048 x 2 B = 268 MB, half of it to the other rank: 134 MB over 450 GB/s is 0.298 ms."""
    found = timing(MoeDispatch(ranks=2.0, tokens=8192.0, **SIZES), link=1.0)
    assert float(found.link_bytes) == pytest.approx(134.2e6, rel=1e-3)
    assert float(found.link_term_s) == pytest.approx(298e-6, rel=0.02)  # the busiest rank gets 1 % more than the mean
    assert float(found.memory_term_s) == pytest.approx(2 * 268.4e6 / (0.7 * 3.35e12), rel=1e-3)


@pytest.mark.parametrize("kind", [MoeDispatch, MoeCombine])
def test_what_crosses_the_link_grows_as_the_share_that_leaves(kind: type[MoeDispatch | MoeCombine]) -> None:
    ranks = np.array([2.0, 4.0, 8.0])
    sent = timing(kind(ranks=ranks, tokens=1000.0, **SIZES)).link_bytes
    assert sent / sent[0] == pytest.approx((ranks - 1) / ranks / 0.5)


def test_skew_costs_what_the_busiest_rank_receives_and_sends_no_more() -> None:
    even = timing(MoeDispatch(ranks=8.0, tokens=4096.0, **SIZES))
    skewed = timing(MoeDispatch(ranks=8.0, tokens=4096.0, load="zipf", **SIZES))
    assert float(skewed.link_term_s) > 1.2 * float(even.link_term_s)
    assert float(skewed.link_bytes) == float(even.link_bytes)
    assert float(skewed.memory_term_s) == float(even.memory_term_s)


def test_a_single_rank_sends_nothing() -> None:
    assert float(timing(MoeCombine(ranks=1.0, tokens=64.0, **SIZES)).time_s) == 0.0


def test_constants_of_a_library_and_of_own_kernels_do_not_stand_in_for_each_other() -> None:
    other = MoeDispatch(ranks=2.0, tokens=8.0, **{**SIZES, "mode": "low_latency"})
    assert FORMS["moe_dispatch"].kernel_class(other) == "moe_dispatch"
    library = FORMS["moe_dispatch"].kernel_class(MoeDispatch(ranks=2.0, tokens=8.0, **SIZES))
    assert str(library).split(".")[0] != "moe_dispatch"


def test_an_unknown_mode_is_named() -> None:
    with pytest.raises(ValueError, match="mode is 'nccl'; accepted: low_latency, throughput, all_to_all"):
        MoeDispatch(ranks=2.0, tokens=8.0, **{**SIZES, "mode": "nccl"})
