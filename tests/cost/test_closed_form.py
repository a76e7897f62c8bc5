"""The closed form and the simulation check each other."""

import pytest

from sparsesim.closed_form import estimate
from sparsesim.scenario import Scenario
from sparsesim.simulation import simulate


def scenario(rate: str, requests: int, **deployment: object) -> Scenario:
    return Scenario.of(
        {
            "model": "llama-3.1-8b",
            "deployment": {"hardware": "h100-sxm", **deployment},
            "workload": {
                "arrivals": {"kind": "poisson", "rate": rate},
                "lengths": {"kind": "fixed", "prompt": "600 tok", "output": "150 tok"},
                "requests": requests,
            },
        }
    )


def test_at_low_load_they_agree_within_one_percent() -> None:
    low = scenario("0.02 /s", 400)
    closed, run = estimate(low).summary, simulate(low).summary
    for figure in ("ttft_s", "tpot_s", "e2e_s"):
        assert closed[figure]["mean"] == pytest.approx(run[figure]["mean"], rel=0.01)
    assert closed["power_w"] == pytest.approx(run["power_w"], rel=0.01)
    assert closed["j_per_output_tok"] == pytest.approx(run["j_per_output_tok"], rel=0.01)


POOLS = {
    "prefill": {"hardware": "h100-sxm"},
    "decode": {"hardware": "h100-sxm", "replicas": 2},
}


def disaggregated(rate: str, requests: int, **workload: object) -> Scenario:
    values = scenario(rate, requests).document.values
    deployment = {"pools": POOLS, "router": "least_outstanding"}
    return Scenario.of({**values, "deployment": deployment, "workload": {**values["workload"], **workload}})


def test_pools_agree_within_one_percent_at_low_load() -> None:
    low = disaggregated("0.02 /s", 400)
    closed, run = estimate(low).summary, simulate(low).summary
    for figure in ("ttft_s", "tpot_s", "e2e_s"):
        assert closed[figure]["mean"] == pytest.approx(run[figure]["mean"], rel=0.01)
    for figure in ("power_w", "j_per_output_tok", "running"):
        assert closed[figure] == pytest.approx(run[figure], rel=0.02)


def test_pools_agree_within_a_few_percent_at_a_middle_load() -> None:
    """Short answers: the KV's way between the pools is then a good part of the time per token."""
    lengths = {"kind": "lognormal", "prompt": {"mean": "600 tok", "cv": 0.5}, "output": {"mean": "20 tok", "cv": 0.5}}
    middle = disaggregated("12 /s", 3000, lengths=lengths)
    closed, run = estimate(middle).summary, simulate(middle).summary
    alone = estimate(scenario("12 /s", 3000)).summary["tpot_s"]["mean"]
    assert closed["tpot_s"]["mean"] == pytest.approx(run["tpot_s"]["mean"], rel=0.03)
    assert closed["tpot_s"]["mean"] != pytest.approx(alone, rel=0.03)
    assert closed["output_tok_per_s"] == pytest.approx(run["output_tok_per_s"], rel=0.03)
    assert closed["power_w"] == pytest.approx(run["power_w"], rel=0.06)


@pytest.mark.parametrize("limit", ["prefill", "transfer", "decode"])
def test_pools_take_what_the_least_of_them_takes(limit: str) -> None:
    """Each in turn made the narrowest: the closed form's highest rate is the simulation's under overload."""
    shapes = {"prefill": ("2048 tok", "4 tok"), "transfer": ("1000 tok", "2 tok"), "decode": ("32 tok", "200 tok")}
    prompt, output = shapes[limit]
    lengths = {"kind": "fixed", "prompt": prompt, "output": output}
    over = disaggregated("2000 /s", 3000, lengths=lengths)
    settings = ["deployment.transfer={bandwidth: 0.4 GB/s, latency: 0 s}"] if limit == "transfer" else []
    over = over.with_settings([*settings, f"deployment.pools.prefill.replicas={8 if limit == 'decode' else 1}"])
    closed, run = estimate(over).summary, simulate(over).summary
    assert closed["saturated"]
    assert closed["requests_per_s"] == pytest.approx(run["requests_per_s"], rel=0.1)


def test_a_closed_loop_of_pools_keeps_its_users() -> None:
    """By Little's law the rate times the time of a request is the number of users."""
    loop = disaggregated("1 /s", 400, arrivals={"kind": "concurrency", "users": 16})
    closed, run = estimate(loop).summary, simulate(loop).summary
    assert closed["requests_per_s"] * closed["e2e_s"]["mean"] == pytest.approx(16, rel=1e-3)
    assert closed["requests_per_s"] == pytest.approx(run["requests_per_s"], rel=0.06)


def test_at_a_middle_load_they_agree_within_a_few_percent() -> None:
    middle = scenario("8 /s", 3000)
    closed, run = estimate(middle).summary, simulate(middle).summary
    assert closed["tpot_s"]["mean"] == pytest.approx(run["tpot_s"]["mean"], rel=0.06)
    assert closed["output_tok_per_s"] == pytest.approx(run["output_tok_per_s"], rel=0.03)
    assert closed["power_w"] == pytest.approx(run["power_w"], rel=0.06)


def test_beyond_saturation_the_closed_form_says_so() -> None:
    assert estimate(scenario("500 /s", 2000)).summary["saturated"]
    assert not estimate(scenario("1 /s", 200)).summary["saturated"]


def test_the_same_seed_gives_the_same_run_bit_for_bit() -> None:
    one, two = (simulate(scenario("8 /s", 500)) for _ in range(2))
    for table in ("requests", "steps"):
        for name, column in one.tables[table].items():
            assert (column == two.tables[table][name]).all() or column.dtype.kind == "f"
            assert column.tobytes() == two.tables[table][name].tobytes()


def test_joules_of_components_add_up() -> None:
    summary = simulate(scenario("8 /s", 500)).summary
    assert sum(summary["energy_by_component_j"].values()) == pytest.approx(summary["energy_j"], rel=1e-12)
    assert summary["energy_j"] == pytest.approx(summary["power_w"] * summary["duration_s"], rel=1e-12)
