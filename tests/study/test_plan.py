"""A plan's screening agrees with the closed form, its winner with exhaustive simulation, reasons with arithmetic."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparsesim.closed_form import Load as MeanLoad
from sparsesim.closed_form import operating
from sparsesim.errors import InfeasibleError, InputError
from sparsesim.metrics import summarise
from sparsesim.scenario import Scenario
from sparsesim.serving import serve
from sparsesim.study.cases import varied
from sparsesim.study.planning.curves import Load, curves, grid, priced
from sparsesim.study.planning.finalists import Search
from sparsesim.study.planning.operate import Demand, operate
from sparsesim.study.planning.search import Plan, plan
from sparsesim.study.planning.write import summary_of, winner_yaml, write_plan
from sparsesim.system import single_pool
from sparsesim.workload import generate


def planned(values: dict[str, Any], axes: dict[str, Any] | None = None, **options: Any) -> Scenario:
    return Scenario.of({**values, "study": {"kind": "plan", "axes": axes or {}, "options": options}})


SMALL = {
    "deployment.tp": [1, 2],
    "deployment.pp": [1],
    "deployment.replicas": [1, 2],
    "deployment.scheduler.max_running": [16, 256, 512],
    "deployment.scheduler.token_budget": [2048],
}


@pytest.fixture(scope="module")
def busy() -> dict[str, Any]:
    """Enough load that one device misses the SLO and four are more than needed."""
    return {
        "model": "llama-3.2-3b",
        "deployment": {"hardware": "h100-sxm"},
        "workload": {
            "arrivals": {"kind": "poisson", "rate": "110 /s"},
            "lengths": {
                "kind": "lognormal",
                "prompt": {"mean": "600 tok", "cv": 0.8},
                "output": {"mean": "120 tok", "cv": 0.8},
            },
            "requests": 400,
        },
        "slo": {"ttft": "120 ms", "tpot": "12 ms", "percentile": 95},
        "power": {"price": "2 USD/h"},
    }


@pytest.fixture(scope="module")
def made(busy: dict[str, Any]) -> Plan:
    return plan(planned(busy, SMALL, devices=4, finalists=8, requests=400))


@pytest.mark.parametrize(("tp", "pp", "rate"), [(1, 1, 4.0), (2, 1, 12.0), (2, 2, 20.0)])
def test_screening_is_the_closed_form(tp: int, pp: int, rate: float) -> None:
    """But for prompts that come in one iteration, which it takes one by one and the closed form together."""
    deployment = {"hardware": "h100-sxm", "tp": tp, "pp": pp}
    workload = {"kind": "static", "phase": "decode", "batch": 1, "context": "1024 tok"}
    system = single_pool(Scenario.of({"model": "llama-3.1-8b", "deployment": deployment, "workload": workload}))
    load = Load(1000, 250.0)
    over = curves(system.steps, priced(system.steps, load, (512, 2048), 256), system.steps.costs.power)
    demand = Demand(load, rate, 99.0, 1.0, 1.0, 0.0, 2.3)
    found = operate(over, demand, np.array([rate]), np.array([256.0]), 1, pausing=False)
    exact = operating(system, MeanLoad(rate, 1000, 250))
    for name in ("ttft_s", "tpot_s", "e2e_s", "running"):
        assert getattr(found, name)[0] == pytest.approx(getattr(exact, name), rel=0.03)
    assert found.power_w[0] == pytest.approx(sum(exact.energy_w.values()), rel=0.02)


@given(st.integers(1, 2000))
@settings(max_examples=30, deadline=None)
def test_the_grid_ends_where_it_is_told_to(most: int) -> None:
    numbers = grid(most)
    assert numbers[0] == 0
    assert numbers[-1] == most
    assert (np.diff(numbers) > 0).all()


def test_a_saturated_point_serves_what_its_full_batch_can(made: Plan) -> None:
    """By Little's law the highest rate times the time a request decodes is the batch."""
    family = made.search.families[0]
    steps, demand = family.instance.made.steps, family.variant.demand
    over = curves(steps, priced(steps, demand.load, (2048,), 64), steps.costs.power)
    found = operate(over, demand, np.array([1e4]), np.array([64.0]), 0, pausing=False)
    assert found.saturated[0]
    tokens = demand.load.output_tok - 1
    assert found.most_per_s[0] * tokens * found.tpot_s[0] == pytest.approx(64.0, rel=1e-6)


def test_the_winner_equals_the_best_of_an_exhaustive_simulation(busy: dict[str, Any], made: Plan) -> None:
    """Every candidate is simulated by the ordinary path; none that meets the SLO is cheaper than the winner."""
    scenario = Scenario.of(busy)
    requests = generate(scenario.workload, 0, 0, scenario.folder)
    good = []
    for tp, replicas, batch in itertools.product((1, 2), (1, 2), (16, 256, 512)):
        scheduler = {"kind": "continuous", "max_running": batch, "token_budget": 2048}
        own = {"deployment.tp": tp, "deployment.replicas": replicas, "deployment.scheduler": scheduler}
        one = varied(scenario, own)
        summary = summarise(serve(one, single_pool(one), requests), one.slo)
        if summary["slo"]["met"]:
            good.append((tp * replicas, summary["j_per_output_tok"], (tp, replicas, batch)))
    assert good
    assert made.winner is not None
    assert 1 < min(good)[0] <= 4, "one device should not be enough, or the space shows nothing"
    assert made.winner.objectives["devices"] == min(good)[0]
    assert made.winner.summary["j_per_output_tok"] == pytest.approx(min(good)[1], rel=1e-9)


def test_finalists_serve_the_same_requests_and_none_twice(made: Plan) -> None:
    rows = [one.row for one in made.search.done]
    assert len(rows) == len(set(rows))
    assert not set(rows) & set(made.search.twins)
    tokens = {(one.summary["requests"]["completed"], one.scenario.simulation.seed) for one in made.search.done}
    assert len(tokens) == 1


def test_twins_behave_alike(made: Plan) -> None:
    """A batch limit that was never reached changes nothing: the twin, simulated after all, gives the same times."""
    twin, of = next(iter(made.search.twins.items()))
    original = next(one for one in made.search.done if one.row == of)
    again = Search(made.search.families, made.search.candidates, "cost").simulate(twin, lambda _: None)
    assert again.measured == pytest.approx(original.measured, rel=1e-12)


def test_every_layout_has_its_reason_and_money_its_arithmetic(made: Plan) -> None:
    assert len(made.reasons) == len(made.search.families)
    assert [one.kind for one in made.reasons].count("winner") == 1
    assert made.winner is not None
    demand = made.search.families[0].variant.demand
    per_mtok = 2.0 / 3600 * made.winner.objectives["devices"] / (demand.rate_per_s * demand.load.output_tok) * 1e6
    assert made.winner.objectives["cost_per_mtok"] == pytest.approx(per_mtok)
    gpu, node = (made.winner.objectives[name] for name in ("j_per_output_tok", "node_j_per_output_tok"))
    assert node > gpu
    assert "facility_j_per_output_tok" not in made.winner.objectives


def test_the_winner_is_a_scenario_that_runs(made: Plan, tmp_path: Path) -> None:
    write_plan(made, tmp_path)
    again = Scenario.load(tmp_path / "winner.yaml")
    assert made.winner is not None
    pool, own = again.deployment.by_name()["all"], made.winner.scenario.deployment.by_name()["all"]
    assert (pool.tp, pool.replicas, pool.scheduler) == (own.tp, own.replicas, own.scheduler)
    assert again.study is None
    assert "chosen by sparsesim plan" in winner_yaml(made)
    assert len((tmp_path / "candidates.csv").read_text().splitlines()) == len(made.search.candidates) + 1
    assert summary_of(made)["cases"][0]["name"] == made.winner.name


def test_what_does_not_fit_is_counted_in_bytes(busy: dict[str, Any]) -> None:
    """Llama-3.1-70B in bf16 is 141 GB: tp 1 lacks what exceeds 90 % of 81559 MiB, tp 2 little or nothing."""
    values = {**busy, "model": "llama-3.1-70b", "slo": {"ttft": "10 s", "tpot": "1 s"}}
    values["workload"] = {**busy["workload"], "arrivals": {"kind": "poisson", "rate": "0.5 /s"}, "requests": 40}
    axes = {"deployment.tp": [1, 4], "deployment.pp": [1], "deployment.scheduler.max_running": [64]}
    found = plan(planned(values, axes, devices=4, finalists=1))
    reason = next(one for one in found.reasons if one.kind == "memory")
    assert reason.family == "tp 1"
    usable = 0.9 * 81559 * 2**20
    plan_of = found.search.families[0].instance.plan
    assert plan_of is not None
    assert reason.by == pytest.approx(70.55e9 * 2 + plan_of.reserve_bytes - usable, rel=0.02)
    assert found.winner is not None


def test_nothing_fits_is_said_with_the_bytes(busy: dict[str, Any]) -> None:
    found = plan(planned({**busy, "model": "llama-3.1-405b"}, devices=1))
    with pytest.raises(InfeasibleError, match=r"tp 1: does not fit: [\d,]+ B .* are missing") as caught:
        found.require()
    assert "nearest feasible: from tp 1, it would fit with tp 16" in str(caught.value)


def test_an_slo_out_of_reach_names_the_nearest_answer(busy: dict[str, Any]) -> None:
    slo = {"ttft": "120 ms", "tpot": "1 ms", "percentile": 95}
    found = plan(planned({**busy, "slo": slo}, SMALL, devices=4, finalists=2, requests=50))
    assert found.winner is None
    with pytest.raises(InfeasibleError, match="no deployment on 4 devices") as caught:
        found.require()
    assert "TPOT" in str(caught.value)
    assert "nearest feasible: with limits" in str(caught.value)
    assert caught.value.exit_code == 3
    assert {one.kind for one in found.reasons} <= {"tpot_s", "saturated", "invalid"}


def test_saturation_says_how_much_is_taken(busy: dict[str, Any]) -> None:
    values = {**busy, "workload": {**busy["workload"], "arrivals": {"kind": "poisson", "rate": "5000 /s"}}}
    found = plan(planned(values, {**SMALL, "deployment.tp": [1]}, devices=2, finalists=1))
    reason = found.reasons[0]
    assert reason.kind == "saturated"
    assert 0 < reason.by < found.search.families[0].variant.demand.rate_per_s


@pytest.mark.parametrize(
    ("axes", "options", "match"),
    [
        ({"deployment.tp": []}, {}, "nothing to vary in deployment.tp"),
        ({"deployment.tp": ["two"]}, {}, r"study.axes.deployment.tp: 'two' is not a whole number"),
        ({"power.cap": ["300"]}, {}, "study.axes.power.cap: '300' .* unit"),
        ({"deployment.scheduler": ["static"]}, {}, "cannot be screened"),
        ({"deployment.hardwear": ["h100-sxm"]}, {}, "hardwear"),
        ({}, {"objective": "carbon"}, "power.carbon"),
        ({}, {"objective": "beauty"}, "objective"),
    ],
)
def test_axes_and_options_are_checked(busy: dict[str, Any], axes: Any, options: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        plan(planned(busy, axes, **options))


def test_a_closed_loop_has_no_rate_to_plan_for(busy: dict[str, Any]) -> None:
    arrivals = {"kind": "concurrency", "users": 8}
    with pytest.raises(InputError, match="has no rate"):
        plan(planned({**busy, "workload": {**busy["workload"], "arrivals": arrivals}}))


def test_an_interrupted_plan_keeps_what_is_known(busy: dict[str, Any]) -> None:
    def told(what: str, done: int, _of: int) -> None:
        if what.startswith("simulated") and done == 1:
            raise KeyboardInterrupt

    found = plan(planned(busy, SMALL, devices=4, requests=100), told)
    assert found.partial
    assert len(found.search.done) == 1


@pytest.mark.parametrize("cap", ["900 W", "50 W"])
def test_a_cap_at_which_no_device_works_is_said(busy: dict[str, Any], cap: str) -> None:
    """An H100 idles with its clocks up at more than 50 W, and draws 700 W at the most."""
    found = plan(planned(busy, {**SMALL, "power.cap": [cap]}, devices=2))
    assert not len(found.search.candidates)
    assert all("no power cap of the axes is above" in one.text for one in found.reasons)


def test_a_lower_power_cap_saves_energy_or_costs_time(busy: dict[str, Any]) -> None:
    axes = {**SMALL, "deployment.tp": [1], "power.cap": [None, "300 W"]}
    c = plan(planned(busy, axes, devices=2, finalists=1, requests=50)).search.candidates
    capped = c.cap_w == 300
    assert capped.sum() == (~capped).sum() > 0
    assert (c.mean[capped] >= c.mean[~capped] * (1 - 1e-9)).all()


def test_launch_arguments_carry_the_layout_and_limits(made: Plan) -> None:
    assert made.winner is not None
    pool = made.winner.scenario.deployment.by_name()["all"]
    vllm, sglang = made.launches
    assert f"--tensor-parallel-size {pool.tp}" in vllm.command
    assert f"--max-num-batched-tokens {pool.scheduler.token_budget}" in vllm.command  # type: ignore[attr-defined]
    assert vllm.command.startswith("vllm serve meta-llama/Llama-3.2-3B ")
    assert f"--chunked-prefill-size {pool.scheduler.token_budget}" in sglang.command  # type: ignore[attr-defined]


def test_no_candidate_beats_one_of_the_front(made: Plan) -> None:
    c = made.search.candidates
    likely = ~made.dead & (made.search.ratio() <= 1)
    columns = [c.objectives[n] for n in ("cost_per_mtok", "j_per_output_tok", "e2e_s")]
    for row in made.front:
        better = np.all([column[likely] <= column[row] * (1 - 1e-5) for column in columns], axis=0)
        assert not better.any()


def test_the_report_holds_the_answer_and_links_to_nothing(made: Plan, tmp_path: Path) -> None:
    from sparsesim.report.plan import write_plan_report

    text = write_plan_report(made, tmp_path).read_text()
    assert made.winner is not None
    assert made.winner.name in text
    assert all(one.family in text for one in made.reasons)
    assert "http://" not in text.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    )
    assert (tmp_path / "plots" / "pareto.png").stat().st_size > 5000
