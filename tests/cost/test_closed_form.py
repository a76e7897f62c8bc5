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
