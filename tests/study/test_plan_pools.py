"""A plan over pools: its screening agrees with the simulation, its winner with all candidates simulated."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsesim.errors import InfeasibleError, InputError
from sparsesim.handover import kv_bytes
from sparsesim.metrics import summarise
from sparsesim.scenario import KvTransfer, Scenario
from sparsesim.serving import serve, transfer_of
from sparsesim.sim.transfer import SharedLinks
from sparsesim.simulation import simulate
from sparsesim.study.cases import varied
from sparsesim.study.planning.finalists import Search
from sparsesim.study.planning.front import undominated
from sparsesim.study.planning.handover import cards, handover
from sparsesim.study.planning.instances import instances
from sparsesim.study.planning.prefill import erlang_c
from sparsesim.study.planning.reasons import Reason, condensed
from sparsesim.study.planning.screen import joined
from sparsesim.study.planning.search import Plan, plan
from sparsesim.study.planning.space import space
from sparsesim.study.planning.table import Table
from sparsesim.study.planning.write import summary_of, write_plan
from sparsesim.system import systems
from sparsesim.workload import generate

AXES = {
    "deployment.tp": [1, 2],
    "deployment.pp": [1],
    "deployment.scheduler.max_running": [16, 256],
    "deployment.scheduler.token_budget": [2048],
    "deployment.pools.decode.scheduler.max_running": [256],
}


def busy(rate: str = "20 /s", requests: int = 200, **slo: Any) -> dict[str, Any]:
    """Llama-3.1-8B with prompts long enough to hold tokens up."""
    return {
        "model": "llama-3.1-8b",
        "deployment": {"hardware": "h100-sxm", "router": "least_outstanding"},
        "workload": {
            "arrivals": {"kind": "poisson", "rate": rate},
            "lengths": {
                "kind": "lognormal",
                "prompt": {"mean": "1500 tok", "cv": 0.6},
                "output": {"mean": "150 tok", "cv": 0.6},
            },
            "requests": requests,
        },
        "slo": {"ttft": "400 ms", "tpot": "13 ms", "percentile": 95, **slo},
        "power": {"price": "2 USD/h"},
    }


def planned(values: dict[str, Any], axes: dict[str, Any] | None = None, **options: Any) -> Scenario:
    study = {"kind": "plan", "axes": AXES if axes is None else axes, "options": options}
    return Scenario.of({**values, "study": study})


def screened(scenario: Scenario) -> Search:
    """All candidates, none simulated."""
    table = Table(space(scenario), lambda _what, _done, _of: None)
    table.fill()
    everything = joined(table.parts)
    return Search(table.families, everything.take(np.flatnonzero(everything.load == 1.0)), "cost")


@pytest.fixture(scope="module")
def made() -> Plan:
    return plan(planned(busy(), pools=True, devices=4, finalists=12, requests=200))


def every_deployment(devices: int) -> list[dict[str, Any]]:
    """The same space as mappings, written without the planner."""
    found: list[dict[str, Any]] = []
    alone = {"hardware": "h100-sxm"}
    for tp, replicas, batch in itertools.product((1, 2), range(1, devices + 1), (16, 256)):
        scheduler = {"kind": "continuous", "max_running": batch, "token_budget": 2048}
        if tp * replicas <= devices:
            found.append({**alone, "tp": tp, "replicas": replicas, "scheduler": scheduler})
    sizes = list(itertools.product((1, 2), range(1, devices)))
    for (tp, n), (tp_decode, m) in itertools.product(sizes, sizes):
        if tp * n + tp_decode * m <= devices:
            prefill, decode = {**alone, "tp": tp, "replicas": n}, {**alone, "tp": tp_decode, "replicas": m}
            found.append({"pools": {"prefill": prefill, "decode": decode}})
    return [{**one, "router": "least_outstanding"} for one in found]


def test_the_winner_equals_the_best_of_an_exhaustive_simulation(made: Plan) -> None:
    """Every deployment of the space, pools or not, runs by the ordinary path; none that meets the SLO is cheaper."""
    good = []
    for deployment in every_deployment(4):
        one = Scenario.of({**busy(), "deployment": deployment})
        pools = systems(one)
        summary = summarise(serve(one, pools, generate(one.workload, 0, 0, one.folder)), one.slo)
        if summary["slo"]["met"]:
            count = sum(system.devices for system in pools.values())
            good.append((count, summary["j_per_output_tok"], "pools" in deployment))
    assert made.winner is not None
    assert {pooled for _, _, pooled in good} == {True, False}, "both kinds should compete, or the space shows nothing"
    assert made.winner.objectives["devices"] == min(good)[0]
    assert made.winner.summary["j_per_output_tok"] == pytest.approx(min(good)[1], rel=1e-9)


@pytest.mark.parametrize(
    ("model", "tp", "deployment"),
    [
        ("llama-3.1-8b", 1, {"hardware": "h100-sxm"}),
        ("qwen3-30b-a3b", 1, {"hardware": "h100-sxm"}),
        ("llama-3.1-8b", 2, {"hardware": "h100-sxm", "topology": "ethernet-100g"}),
    ],
)
def test_screening_agrees_with_simulation_at_a_light_load(model: str, tp: int, deployment: dict[str, Any]) -> None:
    """Equal requests that hardly ever meet: 2 % is for those that do, and for batches that are whole numbers."""
    values = {**busy("0.25 /s", 200), "model": model, "deployment": deployment}
    values["workload"]["lengths"] = {"kind": "fixed", "prompt": "1500 tok", "output": "150 tok"}
    search = screened(planned(values, {**AXES, "deployment.tp": [tp]}, pools="only", devices=2 * tp, requests=200))
    one = search.simulate(int(np.flatnonzero(search.candidates.max_running == 256)[0]), lambda _: None)
    means = [one.summary[name]["mean"] for name in ("ttft_s", "tpot_s", "e2e_s")]
    assert search.candidates.mean[one.row] == pytest.approx(means, rel=0.02)
    chosen = search.families[int(search.candidates.family[one.row])].instances["prefill"].made.steps
    alone = chosen.mixed_at(0, (0.0,), [(1500, 1500)], 1)[0]
    assert search.candidates.mean[one.row, 0] == pytest.approx(alone, rel=1e-9)


@pytest.mark.parametrize(("rate", "replicas"), [(15, 1), (35, 2), (60, 3)])
def test_waits_for_prefill_are_those_of_the_simulation(rate: int, replicas: int) -> None:
    """Replicas two thirds busy: the wait by M/G/c, and its tail, within a third of the simulated one."""
    axes = {
        "deployment.tp": [1],
        "deployment.pp": [1],
        "deployment.pools.prefill.replicas": [replicas],
        "deployment.pools.decode.replicas": [3],
        "deployment.scheduler.max_running": [256],
        "deployment.scheduler.token_budget": [2048],
    }
    search = screened(planned(busy(f"{rate} /s", 1500), axes, pools="only", devices=6, requests=1500))
    one = search.simulate(0, lambda _: None)
    c = search.candidates
    wait = c.objectives["e2e_s"][0] - c.mean[0, 2]
    assert wait > 0.1 * c.mean[0, 0]
    assert c.mean[0, 0] + wait == pytest.approx(one.summary["ttft_s"]["mean"], rel=0.35)
    assert c.high[0, 0] == pytest.approx(one.measured[0], rel=0.35)
    assert c.high[0, 1] == pytest.approx(one.measured[1], rel=0.15)


def test_a_prefill_pool_takes_what_full_steps_hold() -> None:
    """Beyond its highest rate its queue grows without end; the simulation then finishes requests at that rate."""
    axes = {**AXES, "deployment.tp": [1], "deployment.pools.decode.replicas": [3]}
    values = {**busy("200 /s", 600), "workload": {**busy("200 /s", 600)["workload"]}}
    values["workload"]["lengths"] = {"kind": "fixed", "prompt": "1024 tok", "output": "4 tok"}
    search = screened(planned(values, axes, pools="only", devices=4, requests=600))
    c = search.candidates
    row = int(np.flatnonzero((c.prefill_replicas == 1) & (c.max_running == 256))[0])
    assert c.saturated[row]
    assert c.bottleneck[row] == "prefill"
    one = search.simulate(row, lambda _: None)
    assert one.summary["requests_per_s"] == pytest.approx(c.most_per_s[row], rel=0.05)


@given(st.floats(0.05, 0.95), st.integers(1, 12))
def test_the_chance_of_waiting_is_erlangs(load: float, servers: int) -> None:
    offered = load * servers
    terms = [offered**k / math.factorial(k) for k in range(servers + 1)]
    exact = terms[-1] / (1 - load) / (sum(terms[:-1]) + terms[-1] / (1 - load))
    assert erlang_c(np.array([load]), np.array([float(servers)]))[0] == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("topology", [None, "h100-cluster-4to1"])
def test_a_lone_transfer_takes_what_the_simulations_links_give(topology: Any) -> None:
    """Pairs inside a node and across nodes: rates, latency and bytes are those of `transfer_of`."""
    values = busy()
    values["deployment"]["topology"] = topology
    over = space(planned(values, pools="only", devices=16))
    known = [one for one, _ in instances(over, over.variants[0]) if one.fits]
    i, j = (rows.ravel() for rows in np.meshgrid(*[np.arange(len(known))] * 2, indexing="ij"))
    for n, m in ((1, 1), (6, 8)):
        counts = np.full(len(i), float(n)), np.full(len(j), float(m))
        devices = tuple(
            np.array([known[k].layout.devices for k in rows]) * count
            for rows, count in zip((i, j), counts, strict=True)
        )
        sizes = np.array([kv_bytes(known[k].made, 1000) for k in j])
        ends = cards(known, KvTransfer())
        idle = handover((ends, ends), (i, j), counts, (devices[0], devices[1]), sizes, np.full(len(i), 1e-9))
        for row, (a, b) in enumerate(zip(i.tolist(), j.tolist(), strict=True)):
            links = _links(known[a].made, known[b].made, n, m)
            rate = min(links.out_bytes_per_s, links.in_bytes_per_s, links.trunk_bytes_per_s)
            assert idle.moving_s[row] == pytest.approx(1000 * links.bytes_per_tok / rate, rel=1e-6)
            assert idle.latency_s[row] == links.latency_s


def _links(prefill: Any, decode: Any, n: int, m: int) -> SharedLinks:
    from dataclasses import replace

    pools = {
        name: replace(one, name=name, pool=one.pool.model_copy(update={"replicas": count}))
        for name, one, count in (("prefill", prefill, n), ("decode", decode, m))
    }
    found = transfer_of(pools, KvTransfer())
    assert isinstance(found, SharedLinks)
    return found


def test_two_kinds_of_devices_each_have_their_price_and_power() -> None:
    """Profiles' own prices: money per token is the sum of both pools' device-seconds at their own price."""
    values = busy()
    del values["power"]
    axes = {
        **AXES,
        "deployment.pools.prefill.hardware": ["h100-sxm"],
        "deployment.pools.decode.hardware": ["h200-sxm"],
    }
    found = plan(planned(values, axes, pools="only", devices=3, finalists=1))
    one = found.search.done[0]
    c, demand = found.search.candidates, found.space.variants[0].demand
    family = found.search.families[int(c.family[one.row])]
    spent = [
        instance.rates.price_per_s * instance.layout.devices * int(count[one.row])  # type: ignore[union-attr, operator]
        for instance, count in zip(family.instances.values(), (c.prefill_replicas, c.replicas), strict=True)
    ]
    per_mtok = sum(spent) / (demand.rate_per_s * demand.load.output_tok) * 1e6
    assert spent[0] != spent[1]
    assert one.objectives["cost_per_mtok"] == pytest.approx(per_mtok)
    assert c.objectives["cost_per_mtok"][one.row] == pytest.approx(per_mtok)
    assert {name.split()[0] for name in (i.name for i in family.instances.values())} == {"h100-sxm", "h200-sxm"}
    assert {pool.hardware.name for pool in one.scenario.deployment.by_name().values()} == {"h100-sxm", "h200-sxm"}


def test_pools_of_a_scenario_compete_with_replicas_that_do_both() -> None:
    """Where the deployment names pools they are searched without being asked for, each with its own keys."""
    values = busy()
    values["deployment"] = {
        "pools": {
            "prefill": {"hardware": "h100-sxm", "memory": {"utilisation": 0.8}},
            "decode": {"hardware": "h100-sxm", "replicas": 2},
        }
    }
    found = space(planned(values, AXES))
    assert found.roles == ("serve", "prefill", "decode")
    assert found.devices == 3
    search = screened(planned(values, AXES))
    pooled = search.candidates.prefill_replicas > 0
    assert pooled.any()
    assert (~pooled).any()
    one = search.simulate(int(np.flatnonzero(pooled)[0]), lambda _: None)
    pools = one.scenario.deployment.by_name()
    assert (pools["prefill"].memory.utilisation, pools["decode"].memory.utilisation) == (0.8, 0.9)


def test_the_winner_runs_and_launches_a_server_for_each_pool(tmp_path: Path) -> None:
    found = plan(planned(busy(tpot="11 ms"), pools="only", devices=4, finalists=3, requests=100))
    write_plan(found, tmp_path)
    again = Scenario.load(tmp_path / "winner.yaml", ["workload.requests=100"])
    assert found.winner is not None
    pools = found.winner.scenario.deployment.by_name()
    assert again.deployment.by_name() == pools
    assert simulate(again).summary["j_per_output_tok"] == pytest.approx(found.winner.summary["j_per_output_tok"])
    for role, kv_role in (("prefill", "kv_producer"), ("decode", "kv_consumer")):
        vllm, sglang = ((tmp_path / f"launch-{engine}-{role}.sh").read_text() for engine in ("vllm", "sglang"))
        assert f"--tensor-parallel-size {pools[role].tp}" in vllm
        assert f'"kv_role": "{kv_role}"' in vllm
        assert f"--disaggregation-mode {role}" in sglang
        assert f"start {pools[role].replicas} of these for {role}" in vllm
    case = summary_of(found)["cases"][0]["set"]
    assert case["deployment.pools.decode.replicas"] == pools["decode"].replicas


def test_a_plan_clears_away_what_an_earlier_one_wrote(made: Plan, tmp_path: Path) -> None:
    (tmp_path / "launch-vllm-prefill.sh").write_text("an earlier winner's")
    (tmp_path / "notes.txt").write_text("one's own")
    write_plan(made, tmp_path)
    shown = {path.name for path in tmp_path.glob("launch-*.sh")}
    assert shown == {f"launch-{one.name}.sh" for one in made.launches}
    assert (tmp_path / "notes.txt").exists()


def test_every_pair_has_its_reason_and_a_reader_the_nearest(made: Plan) -> None:
    assert len([one for one in made.reasons if one.pair]) == sum(f.prefill is not None for f in made.search.families)
    shown = condensed(made.reasons)
    assert sum(one.candidates for one in shown) == sum(one.candidates for one in made.reasons)


def test_the_other_kind_is_simulated_and_told(made: Plan) -> None:
    """However the finalists turned out, what the kind that lost would cost is among them, and in the verdict."""
    from sparsesim.report.plan import verdict

    assert made.winner is not None
    pooled = made.search.candidates.prefill_replicas > 0
    met = {bool(pooled[one.row]) for one in made.search.done if one.met}
    assert met == {True, False}
    start = "Without pools" if pooled[made.winner.row] else "With pools"
    assert any(line.startswith(f"{start} the best that was simulated is ") for line in verdict(made))


def test_many_pairs_of_one_verdict_are_one_line() -> None:
    pairs = [Reason(f"pair {n}", "ttft_s", f"misses TTFT by {n} s", float(n), 10, pair=True) for n in range(9)]
    own = Reason("tp 1", "ttft_s", "misses TTFT by 3 s", 3.0, 5)
    shown = condensed([*pairs, own])
    assert [one.family for one in shown] == ["pair 0", "pair 1", "pair 2", "tp 1", "6 more pairs of pools"]
    assert shown[-1].candidates == 60
    assert "TTFT by 3 s" in shown[-1].text


def test_no_pair_within_the_devices_is_said() -> None:
    """Llama-3.1-70B takes two H100s a replica, so that two pools take four."""
    values = {**busy(), "model": "llama-3.1-70b"}
    found = plan(planned(values, pools="only", devices=3, finalists=1))
    with pytest.raises(InfeasibleError, match="smallest prefill and decode replicas take 4 devices, 3 are there"):
        found.require()


def test_numbers_of_replicas_beyond_the_devices_make_no_pools() -> None:
    search = screened(planned(busy(), {**AXES, "deployment.pools.prefill.replicas": [50]}, devices=2))
    assert not (search.candidates.prefill_replicas > 0).any()


def test_one_cap_is_that_of_both_pools_and_none_is_each_ones_own() -> None:
    """700 W is an H100's own cap and below a B200's, which then has it too."""
    axes = {
        **AXES,
        "power.cap": [None, "700 W"],
        "deployment.tp": [1],
        "deployment.pools.prefill.hardware": ["b200"],
        "deployment.pools.decode.hardware": ["h100-sxm"],
    }
    search = screened(planned(busy(requests=40), axes, pools="only", devices=2))
    c = search.candidates
    assert sorted(c.cap_w.tolist()) == [700.0, 1000.0]
    found = {}
    for row in range(2):
        one = search.simulate(row, lambda _: None)
        assert one.scenario.power.cap == (700.0 if c.cap_w[row] == 700 else None)
        found[c.cap_w[row]] = {name: s.costs.power.cap_w for name, s in systems(one.scenario).items()}
    assert found[700]["decode"] == found[1000]["decode"]
    assert found[700]["prefill"] == pytest.approx(0.7 * found[1000]["prefill"])


def test_devices_that_nothing_links_make_no_pools() -> None:
    """A Jetson's profile has neither link nor network card: without `transfer` there are no pools of it."""
    board = {"hardware": "jetson-agx-orin"}
    values = {**busy("0.2 /s"), "model": "llama-3.2-1b", "deployment": board}
    search = screened(planned(values, pools=True, devices=4))
    assert not (search.candidates.prefill_replicas > 0).any()
    transfer = {"bandwidth": "1 GB/s", "latency": "20 us"}
    values["deployment"] = {"pools": {"prefill": board, "decode": board}, "transfer": transfer}
    search = screened(planned(values, devices=4))
    assert (search.candidates.prefill_replicas > 0).any()


@pytest.mark.parametrize(
    ("axes", "options", "match"),
    [
        ({"deployment.pools.prefill.tp": [1]}, {"pools": False}, "no pools are searched with pools: false"),
        ({"deployment.scheduler": ["sglang"]}, {"pools": True}, "batch continuously"),
        ({}, {"pools": "only", "devices": 1}, "two pools need two devices"),
        ({}, {"pools": "never"}, r"study.options.pools"),
        ({"deployment.pools.decode.hardware": ["h100-smx"]}, {}, r"h100-smx.*h100-sxm"),
        ({"deployment.pools.decode.hardware": [8]}, {}, "8 is no hardware"),
        ({"deployment.pools.prefill.replicas": [0]}, {}, r"prefill.replicas: 0 is not a whole number"),
        ({"deployment.pools.prefill.tq": [1]}, {}, "the scenario has no pools .*axes of a pool are tp, dp"),
        ({"deployment.pools.decode.memory.utilisation": [0.8]}, {}, "the scenario has no pools"),
        ({"deployment": {"tp": [1]}}, {}, "a whole path is one key: --set 'study.axes={deployment.key"),
    ],
)
def test_axes_and_options_of_pools_are_checked(axes: Any, options: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        plan(planned(busy(), axes, **options))


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"autoscale": {"most": 4, "target": 20}}, "deployment.autoscale: a plan chooses a fixed number"),
        ({"faults": {"outages": [{"replica": 0, "at": "1 s"}]}}, "deployment.faults.outages: outages name replicas"),
        (
            {"scheduler": {"kind": "continuous", "speculation": {"draft_tok": 2, "acceptance": 0.5, "draft": "mtp"}}},
            "deployment.scheduler.speculation: speculation is simulated, not screened",
        ),
    ],
)
def test_what_a_plan_would_pass_over_is_refused(keys: dict[str, Any], match: str) -> None:
    values = busy()
    values["deployment"] |= keys
    with pytest.raises(InputError, match=match):
        plan(planned(values))


def test_the_schedulers_other_keys_stay() -> None:
    values = busy()
    values["deployment"]["scheduler"] = {"kind": "continuous", "preemption": "swap"}
    search = screened(planned(values, {"deployment.tp": [1]}, pools=False, devices=1))
    one = search.simulate(0, lambda _: None)
    assert one.scenario.deployment.scheduler.preemption == "swap"  # type: ignore[attr-defined]


@given(st.lists(st.tuples(*[st.integers(0, 4)] * 3), max_size=14))
def test_the_staircase_finds_the_front(points: list[tuple[int, int, int]]) -> None:
    points.sort()
    kept: list[int] = []
    for place, point in enumerate(points):
        if not any(all(a <= b for a, b in zip(points[k], point, strict=True)) for k in kept):
            kept.append(place)
    assert undominated([float(p[1]) for p in points], [float(p[2]) for p in points]) == kept


def test_pools_halve_the_devices_of_a_tight_bound() -> None:
    """Beside prompts no layout on 8 devices keeps Llama-3.1-70B's tokens 30 ms apart; tp 8 twice does, on 16."""
    scenario = Scenario.load("plan-llama-3.1-70b-pools", ["study.options.finalists=1"])
    found = plan(scenario)
    assert found.winner is not None
    row = found.winner.row
    assert found.search.candidates.prefill_replicas[row] > 0
    assert found.search.candidates.devices[row] == 8
    assert found.winner.measured[1] < 0.025
    met = {}
    requests = generate(scenario.workload, 0, 0, scenario.folder)
    for tp, pp, replicas in ((4, 1, 2), (8, 1, 1), (4, 2, 1), (2, 2, 2), (8, 1, 2)):
        layout = {"deployment.tp": tp, "deployment.pp": pp, "deployment.replicas": replicas}
        one = varied(scenario, layout)
        met[tp, pp, replicas] = summarise(serve(one, systems(one), requests), one.slo)["slo"]["met"]
    assert [key for key, value in met.items() if value] == [(8, 1, 2)]


def test_pools_lose_where_one_decode_replica_is_not_enough() -> None:
    """Llama-3.1-8B at 40 requests/s takes two H100s; of two pools one decode replica saturates, so they take three."""
    found = plan(
        Scenario.load(
            "plan-llama-3.1-8b-8xh100",
            [
                "study.options={pools: true, devices: 3, finalists: 1, requests: 2000}",
                "study.axes={precision: [{weights: fp8, activations: fp8, kv: bf16}], deployment.pp: [1]}",
            ],
        )
    )
    c = found.search.candidates
    assert found.winner is not None
    assert (c.devices[found.winner.row], c.prefill_replicas[found.winner.row]) == (2, 0)
    pairs = (c.prefill_replicas > 0) & (c.devices == 2)
    assert c.saturated[pairs].all()
    assert set(c.bottleneck[pairs & (c.max_running == 512)]) == {"decode"}
    assert {one.kind for one in found.reasons if one.pair} == {"dominated", "saturated"}
