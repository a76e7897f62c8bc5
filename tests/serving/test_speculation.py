"""Verify steps cost what their tokens and drafts cost, and a request sees a step for every batch of accepted tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparsesim.closed_form import estimate
from sparsesim.cost.accumulate import CORE, MEMORY, TIME
from sparsesim.cost.verify import VerifyTables
from sparsesim.errors import InputError
from sparsesim.metrics.latency import with_latencies
from sparsesim.scenario import Scenario
from sparsesim.serving import kv_by_window, serve
from sparsesim.system import PoolSystem, single_pool, systems
from sparsesim.workload import generate

DRAFT = {"draft_tok": 3, "acceptance": 0.6, "draft": "llama-3.2-1b"}


def scenario(model: str = "llama-3.1-8b", law: dict[str, Any] | None = None, **deployment: Any) -> Scenario:
    rules = {"kind": "continuous", "speculation": DRAFT if law is None else law}
    lengths = {"kind": "fixed", "prompt": "512 tok", "output": "401 tok"}
    work = {"arrivals": {"kind": "deterministic", "rate": "0.1 /s"}, "lengths": lengths, "requests": 60}
    return Scenario.of(
        {"model": model, "deployment": {"hardware": "h100-sxm", "scheduler": rules, **deployment}, "workload": work}
    )


def system(model: str = "llama-3.1-8b", law: dict[str, Any] | None = None, **deployment: Any) -> PoolSystem:
    return single_pool(scenario(model, law, **deployment))


def test_a_verify_step_reads_the_cache_once_and_computes_four_tokens() -> None:
    own = system()
    tables = own.steps.tables
    assert isinstance(tables, VerifyTables)
    tasks = own.model.decode_by_window(np.array([8.0 * 4]), np.array([1000.0]), own.setting)[float("inf")]
    op = next(tables._verified(task, np.array([8.0])).op for task in tasks if task.part == "attention.core")
    # 8 sequences of 1000 tokens, 8 heads of 128 in bf16: keys and values once, q and output of 32 heads 4 times
    assert float(np.ravel(op.hbm_bytes())[0]) == 2 * 8 * 128 * (2 * 4 * 32 + 2 * 1000 * 8)
    # two products of 2 x 128 for each pair: query i of 4 sees 997 + i keys, 32 heads
    assert float(np.ravel(op.flop())[0]) == 4 * 8 * 32 * 128 * (997 + 998 + 999 + 1000)


def test_a_verify_step_is_its_parts_and_its_drafts() -> None:
    own, plain = system(), system(law={"draft_tok": 1, "acceptance": 0.0, "draft": "llama-3.2-1b"})
    wide = own.steps.tables
    assert isinstance(wide, VerifyTables)
    drafts = wide._totals(wide.draft_tasks(np.array([8.0]), np.array([1000.0])), (1,))[0]
    one = plain.steps.tables
    assert isinstance(one, VerifyTables)
    single = one._totals(one.draft_tasks(np.array([8.0]), np.array([1000.0])), (1,))[0]
    assert drafts[[TIME, CORE, MEMORY]] == pytest.approx(3 * single[[TIME, CORE, MEMORY]])
    mixed = list(own.steps.mixed_at(8, (1000.0,), [(1, 1)], 8))
    curve = own.steps.decode(8)
    decode = curve.base[0] + np.interp(1000.0, curve.channels[0].knots, curve.channels[0].values[:, 0])
    assert mixed[0] == pytest.approx(decode, rel=0.05)  # one token more than the verify step alone


def test_a_lone_request_gets_its_mean_number_of_tokens_a_step() -> None:
    asked = scenario()
    records = serve(asked, single_pool(asked), generate(asked.workload, 0, 0, asked.folder))
    tpot = float(with_latencies(records.requests)["tpot_s"].mean())
    law = asked.deployment.scheduler.speculation  # type: ignore[attr-defined]
    curve = single_pool(asked).steps.decode(1)
    step = curve.base[0] + np.interp(712.0, curve.channels[0].knots, curve.channels[0].values[:, 0])
    # (1 - 0.6^4) / 0.4 = 2.176 tokens a step; what the last step overshoots is dropped
    assert law.mean_tok == pytest.approx(2.176)
    assert tpot == pytest.approx(float(step) / 2.176, rel=0.03)


def test_drafting_takes_memory() -> None:
    own, plain = (
        system(),
        single_pool(Scenario.of({**scenario().model_dump(mode="json"), "deployment": {"hardware": "h100-sxm"}})),
    )
    # Llama-3.2-1B has 1.236e9 parameters, tied; its cache is 16 x 2 x 8 x 64 x 2 B of 131,072 B a token: a quarter
    left = plain.memory.kv_blocks * plain.memory.block_bytes - 1.236e9 * 2
    assert own.memory.kv_blocks == pytest.approx(left / plain.memory.block_bytes / 1.25, rel=0.01)


def test_modules_of_the_model_draft_too_and_what_cannot_be_is_refused() -> None:
    law = {"draft_tok": 1, "acceptance": 0.8}
    own = system("deepseek-v3", law, hardware="h200-sxm", tp=1, dp=8, ep=8)
    assert own.steps.decode(64).base[0] > 0
    for model, said in (("llama-3.1-8b", "multi-token-prediction"), ("falcon-h1-0.5b", "multi-token|state")):
        with pytest.raises(InputError, match=said):
            system(model, law)
    with pytest.raises(InputError, match="state"):
        system("falcon-h1-0.5b", DRAFT)
    with pytest.raises(InputError, match="simulated, not estimated"):
        estimate(scenario())


def test_between_pools_the_decode_replicas_draft_and_their_drafts_kv_moves_too() -> None:
    rules = {"kind": "continuous", "speculation": DRAFT}
    pool = {"hardware": "h100-sxm"}
    lengths = {"kind": "fixed", "prompt": "512 tok", "output": "201 tok"}
    work = {"arrivals": {"kind": "deterministic", "rate": "0.2 /s"}, "lengths": lengths, "requests": 40}
    pools = {"prefill": pool, "decode": {**pool, "scheduler": rules}}
    asked = Scenario.of({"model": "llama-3.1-8b", "deployment": {"pools": pools}, "workload": work})
    parts = systems(asked)
    # a token of the 8B model takes 32 x 2 x 8 x 128 x 2 B, of the 1B draft 16 x 2 x 8 x 64 x 2 B
    assert kv_by_window(parts["decode"]) == {float("inf"): 131_072 + 32_768}
    requests = generate(asked.workload, 0, 0, asked.folder)
    apart = serve(asked, parts, requests)
    alone = serve(asked, single_pool(scenario()), requests)
    assert (apart.requests["generated_tok"] == 201).all()
    gaps = [with_latencies(one.requests)["tpot_s"].mean() for one in (apart, alone)]
    assert gaps[0] == pytest.approx(float(gaps[1]), rel=0.02)  # but for the transfer, 84 MB over a link of 450 GB/s
    decoding = np.asarray(apart.steps["replica"]) == 1
    assert not apart.steps["chunks"][decoding].any()
    assert not apart.steps["decode"][~decoding].any()


def test_prefill_replicas_have_nothing_to_draft() -> None:
    pool = {"hardware": "h100-sxm", "scheduler": {"kind": "continuous", "speculation": DRAFT}}
    work = {"kind": "serving", "arrivals": {"kind": "poisson", "rate": "1 /s"},
            "lengths": {"kind": "fixed", "prompt": "8 tok", "output": "8 tok"}, "requests": 4}  # fmt: skip
    asked = {"model": "llama-3.1-8b", "deployment": {"pools": {"prefill": pool, "decode": pool}}, "workload": work}
    with pytest.raises(InputError, match=r"deployment.pools.prefill.scheduler.speculation: .*nothing to draft"):
        systems(Scenario.of(asked))
