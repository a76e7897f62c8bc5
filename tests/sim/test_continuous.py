"""The continuous scheduler against timelines worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from step_models import Affine, Constant

from sparsesim.errors import InputError
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.round_robin import RoundRobin
from sparsesim.sim.run import simulate_fleet
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.workload.requests import RequestTable

TEN_MS = Constant(time_s=0.01)


def serve(arrival_s, prompt_tok, output_tok, steps=TEN_MS, kv_blocks=1000, max_context=100_000, rules=None, **others):
    table = RequestTable.of(arrival_s, prompt_tok, output_tok, **others)
    spec = ReplicaSpec(steps, kv_blocks=kv_blocks, max_context=max_context)
    return simulate_fleet(table, [spec], RoundRobin(), rules or Continuous())


def test_a_lone_request_takes_one_prefill_and_output_minus_one_decode_iterations():
    records = serve([1.0], [100], [5])
    assert records.requests["first_token_s"][0] == pytest.approx(1.01, abs=1e-12)
    assert records.requests["finish_s"][0] == pytest.approx(1.05, abs=1e-12)
    assert records.steps["iterations"].tolist() == [1, 4]


def test_a_leap_integrates_the_growing_context():
    # prompt 100, output 4: decode iterations attend 101, 102, 103 tokens; 1 ms + 1 us per token each
    model = Affine(base_s=1e-3, per_sequence_s=0.0, per_context_s=1e-6, per_token_s=0.0, per_attended_s=0.0)
    records = serve([0.0], [100], [4], steps=model)
    assert records.requests["finish_s"][0] == pytest.approx(1e-3 + 3e-3 + (101 + 102 + 103) * 1e-6, rel=1e-12)


def test_a_prompt_above_the_budget_is_computed_in_chunks():
    records = serve([0.0], [5000], [2], rules=Continuous(token_budget=2048))
    assert records.steps["prefill_tok"].tolist() == [2048, 2048, 904, 0]
    assert records.requests["first_token_s"][0] == pytest.approx(0.03)


def test_an_arrival_enters_at_the_next_boundary_of_the_leap():
    # the first decodes with boundaries at 0.01, 0.02, ...; the second comes at 0.0345 and is prefilled from 0.04 on
    records = serve([0.0, 0.0345], [10, 10], [100, 1])
    assert records.requests["admitted_s"][1] == pytest.approx(0.04)
    assert records.requests["first_token_s"][1] == pytest.approx(0.05)


def test_an_arrival_that_ties_with_a_boundary_is_at_it():
    records = serve([0.0, 0.03 + 5e-10], [10, 10], [100, 1])
    assert records.requests["admitted_s"][1] == pytest.approx(0.03)


def test_no_block_for_a_running_request_preempts_the_last_which_computes_everything_again():
    # 4 blocks of 16: two prompts of 16 take one block each and a second one for their next token; at 33 tokens of
    # context (the 17th decode iteration) the first needs a third block, which only the second can give up
    records = serve([0.0, 0.0], [16, 16], [20, 20], kv_blocks=4)
    assert records.requests["preemptions"].tolist() == [0, 1]
    # first token at 0.01, then 19 decode iterations
    assert records.requests["finish_s"][0] == pytest.approx(0.20)
    # 17 tokens by 0.17; when the first is done, one iteration computes 16 + 17 tokens again, two more decode
    assert records.requests["finish_s"][1] == pytest.approx(0.20 + 0.03)
    assert records.steps["prefill_tok"].sum() == 32 + 33
    assert records.steps["output_tok"].sum() == 40


def test_swapping_moves_blocks_out_and_back_instead_of_computing_again():
    # as above: at 0.17 the second holds 32 tokens, 2 blocks of 1 ms each way
    table = RequestTable.of([0.0, 0.0], [16, 16], [20, 20])
    spec = ReplicaSpec(TEN_MS, kv_blocks=4, max_context=1000, swap_s_per_block=1e-3)
    records = simulate_fleet(table, [spec], RoundRobin(), Continuous(preemption="swap"))
    # the first goes on when the two blocks are out; the second comes back when it is done, with three tokens to go
    assert records.requests["finish_s"][0] == pytest.approx(0.20 + 2e-3)
    assert records.requests["finish_s"][1] == pytest.approx(0.20 + 2e-3 + 2e-3 + 0.03)
    assert records.steps["prefill_tok"].sum() == 32


def test_swapping_needs_to_know_how_long_a_block_takes():
    with pytest.raises(InputError, match="swap_s_per_block"):
        serve([0.0], [10], [5], rules=Continuous(preemption="swap"))


def test_the_head_of_the_queue_blocks_those_behind_it():
    # 10 blocks: the first holds 5 (80 tokens); the second needs 8, so the third (1 block) waits behind it
    records = serve([0.0, 0.001, 0.002], [70, 120, 10], [11, 2, 2], kv_blocks=10)
    admitted = records.requests["admitted_s"]
    assert admitted[1] == pytest.approx(records.requests["finish_s"][0])
    assert admitted[2] >= admitted[1]


def test_priority_goes_before_arrival():
    rules = Continuous(max_running=1, policy="priority")
    records = serve([0.0, 0.001, 0.002], [10] * 3, [5] * 3, rules=rules, priority=np.array([0, 1, 0]))
    assert records.requests["finish_s"].argsort().tolist() == [0, 2, 1]


def test_a_request_that_can_never_be_served_is_named():
    records = serve([0.0] * 3, [90, 300, 10], [20, 1, 5], kv_blocks=4, max_context=200)
    assert records.requests["outcome"].tolist() == ["rejected_too_large", "rejected_too_long", "finished"]


def test_state_slots_limit_the_batch():
    spec = ReplicaSpec(TEN_MS, kv_blocks=0, max_context=1000, state_slots=1, kv_windows=())
    table = RequestTable.of([0.0, 0.0], [10, 10], [3, 3])
    records = simulate_fleet(table, [spec], RoundRobin(), Continuous())
    assert records.requests["finish_s"].tolist() == pytest.approx([0.03, 0.06])


def test_the_budget_must_give_every_running_request_its_token():
    with pytest.raises(ValueError, match="token_budget 8 is below max_running 16"):
        Continuous(max_running=16, token_budget=8)
