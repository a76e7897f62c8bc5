"""Prefix caching against the Mooncake trace and by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from step_models import Affine, Constant

from sparsesim.loading import data_root
from sparsesim.sim.prefix import PrefixCache
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.prefix_aware import PrefixAware
from sparsesim.sim.routers.round_robin import RoundRobin
from sparsesim.sim.run import simulate_fleet
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.workload.requests import PrefixBlocks, RequestTable
from sparsesim.workload.traces.mooncake import Mooncake

TRACE = Path(data_root()) / "scenarios" / "traces" / "mooncake_fast25_synthetic.jsonl"


@pytest.fixture(scope="module")
def mooncake():
    return Mooncake().read(TRACE)


def test_an_unbounded_cache_hits_what_the_trace_itself_repeats(mooncake):
    # directly: the leading full blocks of a prompt that an earlier prompt had, the last token always computed
    seen: set[int] = set()
    reusable = blocks = 0
    for row, prompt in enumerate(mooncake.prompt_tok.tolist()):
        ids = mooncake.prefix_blocks.of(row).tolist()
        leading = next((i for i, one in enumerate(ids) if one not in seen), len(ids))
        blocks += leading
        reusable += 512 * min(leading, (prompt - 1) // 512)
        seen.update(ids)
    spec = ReplicaSpec(Affine(), kv_blocks=10**7, max_context=10**6, prefix_cache="unbounded")
    records = simulate_fleet(mooncake, [spec], RoundRobin(), Continuous(token_budget=8192))
    assert records.requests["cached_tok"].sum() == reusable
    assert blocks / len(mooncake.prefix_blocks.ids) == pytest.approx(0.640, abs=5e-4)  # the trace's published ratio


def test_a_bounded_cache_hits_less_and_a_larger_one_more(mooncake):
    first = mooncake.take(np.arange(1000))
    hits = []
    for kv_blocks in (20_000, 80_000, 320_000):
        spec = ReplicaSpec(Affine(), kv_blocks=kv_blocks, max_context=10**6, prefix_cache="pool")
        records = simulate_fleet(first, [spec], RoundRobin(), Continuous(token_budget=8192))
        assert (records.requests["outcome"] == "finished").all()
        hits.append(int(records.requests["cached_tok"].sum()))
    assert 0 < hits[0] < hits[1] < hits[2]


def conversation(ids, arrival_s, prompt_tok, output_tok=2):
    offsets = np.cumsum([0, *map(len, ids)])
    blocks = PrefixBlocks(np.array([one for row in ids for one in row], np.int64), offsets, 32)
    return RequestTable.of(arrival_s, prompt_tok, np.full(len(ids), output_tok), prefix_blocks=blocks)


def test_a_hit_saves_exactly_the_cached_tokens():
    # per token 1 ms: the second prompt repeats 64 of its 70 tokens
    model = Affine(base_s=0.0, per_sequence_s=0.0, per_context_s=0.0, per_token_s=1e-3, per_attended_s=0.0)
    table = conversation([[1, 2, 3], [1, 2, 4]], [0.0, 1.0], [70, 70], output_tok=1)
    spec = ReplicaSpec(model, kv_blocks=100, max_context=1000, prefix_cache="pool")
    records = simulate_fleet(table, [spec], RoundRobin(), Continuous())
    ttft = records.requests["first_token_s"] - records.requests["arrival_s"]
    assert ttft.tolist() == pytest.approx([0.070, 0.006])
    assert records.requests["cached_tok"].tolist() == [0, 64]


def test_a_prompt_held_whole_still_computes_its_last_block():
    table = conversation([[1, 2], [1, 2]], [0.0, 1.0], [64, 64])
    spec = ReplicaSpec(Constant(), kv_blocks=100, max_context=1000, prefix_cache="pool")
    records = simulate_fleet(table, [spec], RoundRobin(), Continuous())
    assert records.requests["cached_tok"].tolist() == [0, 32]


def test_requests_that_share_a_prefix_share_its_blocks():
    # two prompts of 64 equal tokens and 1 own: 4 + 1 and 0 + 1 blocks of 16
    table = conversation([[1, 2], [1, 2]], [0.0, 0.0015], [65, 65], output_tok=10)
    spec = ReplicaSpec(Constant(time_s=1e-3), kv_blocks=100, max_context=1000, prefix_cache="pool")
    records = simulate_fleet(table, [spec], RoundRobin(), Continuous())
    assert records.steps["kv_blocks"].max() == 6


def test_the_least_recently_used_id_goes_first_and_the_last_block_before_the_first():
    cache = PrefixCache(kv_blocks=2, unbounded=False)
    assert cache.add([1, 2, 3]) == (1, 2, 3)
    assert cache.release([1, 2, 3]) == 3
    cache.shrink(4)
    assert cache.match([1, 2, 3]) == 2
    cache.use([1])
    cache.shrink(0)
    assert cache.match([1, 2]) == 1
    assert 2 not in cache.users


def test_what_is_evicted_can_be_fetched_back_from_host_memory():
    # a pool of 5 blocks holds one prompt: the second evicts the first's 4 full blocks, the third fetches 2 ids of
    # 2 blocks (1 ms each) and computes only its own 6 tokens at 1 ms
    model = Affine(base_s=0.0, per_sequence_s=0.0, per_context_s=0.0, per_token_s=1e-3, per_attended_s=0.0)
    table = conversation([[1, 2, 3], [7, 8, 9], [1, 2, 4]], [0.0, 1.0, 2.0], [70] * 3, output_tok=1)
    spec = ReplicaSpec(
        model, kv_blocks=5, max_context=1000, prefix_cache="pool", host_blocks=100, swap_s_per_block=1e-3
    )
    records = simulate_fleet(table, [spec], RoundRobin(), Continuous())
    ttft = records.requests["first_token_s"] - records.requests["arrival_s"]
    assert ttft.tolist() == pytest.approx([0.070, 0.070, 0.006 + 0.004])


def test_the_prefix_aware_router_follows_the_cache_until_load_forbids():
    table = conversation([[1, 2], [7, 8], [1, 2], [7, 8]], [0.0, 0.1, 10.0, 20.0], [65, 65, 65, 65])
    spec = ReplicaSpec(Constant(time_s=0.5), kv_blocks=100, max_context=1000, prefix_cache="pool")
    records = simulate_fleet(table, [spec] * 2, PrefixAware(), Continuous())
    assert records.requests["replica"].tolist() == [0, 1, 0, 1]
    burst = conversation([[1, 2]] * 6, np.arange(6) * 1e-3, [65] * 6)
    records = simulate_fleet(burst, [spec] * 2, PrefixAware(difference=1, ratio=1.0), Continuous())
    assert set(records.requests["replica"].tolist()) == {0, 1}
