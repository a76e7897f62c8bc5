"""Lengths: means, spreads and bounds, each against its law."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesim.errors import InputError
from sparsesim.workload import RequestTable, Workload, generate

POISSON = {"kind": "poisson", "rate": "10 /s"}


def table(lengths: dict[str, Any], requests: int = 20_000) -> RequestTable:
    return generate(Workload.resolve({"arrivals": POISSON, "lengths": lengths, "requests": requests}), seed=11)


def test_lognormal_has_the_mean_spread_and_median_asked_for() -> None:
    drawn = table(
        {"kind": "lognormal", "prompt": {"mean": "800 tok", "cv": 0.9}, "output": {"mean": "200 tok", "cv": 0}}
    )
    assert drawn.prompt_tok.mean() == pytest.approx(800, rel=4 * 0.9 / math.sqrt(20_000))
    assert drawn.prompt_tok.std() / drawn.prompt_tok.mean() == pytest.approx(0.9, rel=0.05)
    assert np.median(drawn.prompt_tok) == pytest.approx(800 / math.sqrt(1 + 0.81), rel=0.02)
    assert set(drawn.output_tok) == {200}


def test_the_correlation_is_that_of_the_logarithms() -> None:
    side = {"mean": "5000 tok", "cv": 1}
    drawn = table({"kind": "lognormal", "prompt": side, "output": side, "correlation": 0.6})
    found = np.corrcoef(np.log(drawn.prompt_tok), np.log(drawn.output_tok))[0, 1]
    assert found == pytest.approx(0.6, abs=0.02)


def test_the_prompts_of_a_lognormal_do_not_depend_on_its_outputs() -> None:
    prompt = {"mean": "300 tok", "cv": 1}
    first = table({"kind": "lognormal", "prompt": prompt, "output": {"mean": "5 tok", "cv": 0}})
    second = table({"kind": "lognormal", "prompt": prompt, "output": {"mean": "900 tok", "cv": 2}})
    assert np.array_equal(first.prompt_tok, second.prompt_tok)


def test_geometric_is_memoryless() -> None:
    drawn = table({"kind": "geometric", "prompt": {"mean": "1 tok"}, "output": {"mean": "50 tok"}}).output_tok
    assert set(table({"kind": "geometric", "prompt": {"mean": "1 tok"}, "output": {"mean": "5 tok"}}).prompt_tok) == {1}
    assert drawn.mean() == pytest.approx(50, rel=0.03)
    assert (drawn > 60).mean() / (drawn > 20).mean() == pytest.approx((1 - 1 / 50) ** 40, rel=0.05)


def test_empirical_lengths_come_as_often_as_they_weigh() -> None:
    prompt = {"lengths": ["10 tok", "20 tok", "40 tok"], "weights": [1, 2, 1]}
    drawn = table({"kind": "empirical", "prompt": prompt, "output": {"lengths": ["3 tok", "4 tok"]}})
    values, counts = np.unique(drawn.prompt_tok, return_counts=True)
    assert list(values) == [10, 20, 40]
    assert counts / 20_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.015)
    assert drawn.output_tok.mean() == pytest.approx(3.5, abs=0.02)


def test_empirical_weights_must_match_their_lengths() -> None:
    from pydantic import ValidationError

    from sparsesim.workload.lengths.empirical import Side

    with pytest.raises(ValidationError, match="2 weights for 1 lengths"):
        Side.model_validate({"lengths": ["3 tok"], "weights": [1, 2]})


def test_rows_of_a_trace_stay_together() -> None:
    lengths = {"kind": "trace", "file": "sharegpt300_llama31_lengths.csv"}
    recorded, sampled = table(lengths, 600), table({**lengths, "order": "sampled"}, 600)
    pairs = set(zip(recorded.prompt_tok.tolist(), recorded.output_tok.tolist(), strict=True))
    assert (recorded.prompt_tok[0], recorded.output_tok[0]) == (2358, 531)
    assert np.array_equal(recorded.prompt_tok[:300], recorded.prompt_tok[300:])
    assert set(zip(sampled.prompt_tok.tolist(), sampled.output_tok.tolist(), strict=True)) <= pairs


def test_arrivals_without_lengths_need_some() -> None:
    with pytest.raises(InputError, match="come without lengths"):
        generate(Workload.resolve({"arrivals": POISSON, "requests": 3}), seed=0)


@given(st.floats(1, 1e5), st.floats(0, 5), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_lengths_are_whole_and_at_least_one_and_below_their_maximum(mean: float, cv: float, seed: int) -> None:
    side = {"mean": f"{mean} tok", "cv": cv, "max": "5000 tok"}
    lengths = {"kind": "lognormal", "prompt": side, "output": side}
    drawn = generate(Workload.resolve({"arrivals": POISSON, "lengths": lengths, "requests": 50}), seed)
    assert drawn.prompt_tok.dtype == np.int64
    assert drawn.prompt_tok.min() >= 1
    assert drawn.output_tok.max() <= 5000


def test_a_static_batch_comes_together() -> None:
    static = Workload.resolve({"kind": "static", "phase": "decode", "batch": 64, "context": "4096 tok"})
    batch = generate(static, seed=0)
    assert len(batch) == 64
    assert set(batch.prompt_tok) == {4096}
    assert set(batch.arrival_s) == {0.0}
