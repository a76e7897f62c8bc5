"""The summary's figures, worked out by hand or from the records another way."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from sparsesim.metrics import ATTRIBUTES, summarise
from sparsesim.metrics.attributes import attributes, markdown
from sparsesim.metrics.latency import distribution, meets, with_latencies
from sparsesim.metrics.stats import batch_means, mean_interval, mean_summary, replication_intervals
from sparsesim.scenario import Slo
from sparsesim.sim.records import Records

SLO = Slo.model_validate({"ttft": "30 ms", "tpot": "6 ms", "percentile": 90})
LATENCIES = ("ttft_s", "tpot_s", "e2e_s")
CONTRACT = {*LATENCIES, "requests", "output_tok_per_s", "goodput_per_s", "energy_j", "j_per_output_tok", "power_w"}
CONTRACT |= {"kv_blocks", "energy_by_component_j", "outcomes", "intervals"}


def requests(**columns: list[float]) -> dict[str, np.ndarray]:
    table = {name: np.array(column, float) for name, column in columns.items()}
    return with_latencies({**table, "outcome": np.array(["finished"] * len(table["arrival_s"]))})


def test_latencies_by_hand() -> None:
    table = requests(
        arrival_s=[1.0, 2.0], admitted_s=[1.5, 2.0], first_token_s=[2.0, 2.5], finish_s=[6.0, 2.5], output_tok=[5, 1]
    )
    assert list(table["ttft_s"]) == [1.0, 0.5]
    assert list(table["queue_s"]) == [0.5, 0.0]
    assert list(table["e2e_s"]) == [5.0, 0.5]
    assert table["tpot_s"][0] == 1.0
    assert math.isnan(table["tpot_s"][1])


def test_a_distribution_by_hand() -> None:
    found = distribution(np.append(np.arange(101.0), np.nan))
    assert found == {
        "mean": 50.0,
        "std": math.sqrt((101**2 - 1) / 12),
        "p50": 50.0,
        "p90": 90.0,
        "p95": 95.0,
        "p99": 99.0,
        "max": 100.0,
    }
    assert distribution(np.array([np.nan]))["p99"] is None


def test_goodput_needs_every_term_and_forgives_a_missing_tpot() -> None:
    table = requests(
        arrival_s=[0, 0, 0, 0],
        admitted_s=[0, 0, 0, 0],
        first_token_s=[0.02, 0.04, 0.02, 0.03],
        finish_s=[0.10, 0.10, 1.0, 0.03],
        output_tok=[21, 21, 21, 1],
    )
    assert list(meets(table, {"ttft_s": 0.03, "tpot_s": 0.006})) == [True, False, False, True]
    table["outcome"][0] = "failed"
    assert list(meets(table, {})) == [False, True, True, True]


def test_a_summary_has_the_contract_and_nothing_undescribed(calm: Records) -> None:
    summary = summarise(calm, SLO)
    assert set(summary) >= CONTRACT
    assert all({"mean", "p50", "p90", "p99"} <= set(summary[name]) for name in LATENCIES)
    described = {name.split(".")[0] for name in attributes("summary")}
    assert set(summary) <= described


def test_every_request_and_token_is_counted(calm: Records) -> None:
    summary = summarise(calm, SLO)
    assert summary["requests"] == {"completed": 400, "failed": 0}
    assert sum(summary["outcomes"].values()) == 400
    tokens = calm.requests["output_tok"].sum()
    assert summary["output_tok_per_s"] * summary["duration_s"] == pytest.approx(tokens)
    prompts = calm.requests["prompt_tok"].sum()
    assert summary["total_tok_per_s"] * summary["duration_s"] == pytest.approx(tokens + prompts)
    assert summary["j_per_output_tok"] == pytest.approx(summary["energy_j"] / tokens)
    assert summary["energy_j"] == pytest.approx(sum(summary["energy_by_component_j"].values()))
    assert summary["power_w"] == pytest.approx(summary["energy_j"] / summary["duration_s"])


def test_the_slo_is_judged_at_its_percentile(calm: Records) -> None:
    loose = summarise(calm, Slo.model_validate({"ttft": "100 s"}))["slo"]
    assert loose["met"] is True
    assert loose["attainment"] == 1.0
    p80 = float(np.percentile(with_latencies(calm.requests)["ttft_s"], 80))
    for percentile, met in ((79, True), (81, False)):
        judged = summarise(calm, Slo.model_validate({"ttft": f"{p80} s", "percentile": percentile}))
        assert judged["slo"]["met"] is met
        assert judged["slo"]["attainment"] == pytest.approx(0.8, abs=0.003)
        assert judged["goodput_per_s"] == pytest.approx(0.8 * judged["requests_per_s"], rel=0.005)


def test_a_warm_up_is_cut_from_requests_time_and_energy(calm: Records) -> None:
    whole, cut = summarise(calm), summarise(calm, warm_up_s=5.0)
    after = int((calm.requests["arrival_s"] >= 5.0).sum())
    assert cut["requests"]["completed"] == after < 400
    assert cut["duration_s"] == pytest.approx(whole["duration_s"] - 5.0)
    assert cut["energy_j"] < whole["energy_j"]
    late = calm.requests["arrival_s"] >= 5.0
    assert cut["ttft_s"]["mean"] == pytest.approx(
        float((calm.requests["first_token_s"] - calm.requests["arrival_s"])[late].mean())
    )


def test_requests_that_did_not_finish_are_failures(calm: Records) -> None:
    outcome = calm.requests["outcome"].copy()
    outcome[:10] = "rejected_full"
    summary = summarise(replace(calm, requests={**calm.requests, "outcome": outcome}), SLO)
    assert summary["requests"] == {"completed": 390, "failed": 10}
    assert summary["outcomes"] == {"finished": 390, "rejected_full": 10}


def test_requests_that_had_not_come_when_the_run_was_cut_are_not_failures(calm: Records) -> None:
    cut_s = 10.0
    finish = calm.requests["finish_s"]
    outcome = np.where(finish <= cut_s, calm.requests["outcome"], "unfinished")
    cut = replace(calm, requests={**calm.requests, "outcome": outcome}, end_s=cut_s, partial=True)
    came, done = int((calm.requests["arrival_s"] <= cut_s).sum()), int((finish <= cut_s).sum())
    assert done < came < 400
    assert summarise(cut)["requests"] == {"completed": done, "failed": came - done}


def test_priorities_are_told_apart(calm: Records) -> None:
    priority = np.arange(400) % 2
    summary = summarise(replace(calm, requests={**calm.requests, "priority": priority}), SLO)
    ttft = calm.requests["first_token_s"] - calm.requests["arrival_s"]
    for one in (0, 1):
        assert summary["by_priority"][str(one)]["requests"]["completed"] == 200
        assert summary["by_priority"][str(one)]["ttft_s"]["mean"] == pytest.approx(ttft[priority == one].mean())
    assert "by_priority" not in summarise(calm, SLO)


def test_utilisation_is_busy_time_over_up_time(calm: Records) -> None:
    busy = float((calm.steps["end_s"] - calm.steps["start_s"]).sum())
    summary = summarise(calm)
    assert summary["utilisation"] == pytest.approx(busy / (2 * calm.end_s))
    assert 0 < summary["kv_use"]["mean"] < summary["kv_use"]["max"] < 1


def test_student_interval_by_hand() -> None:
    low, high = mean_interval([1.0, 2.0, 3.0, 4.0])  # t(0.95, 3) = 2.35336 (tables), s = 1.29099
    assert (low, high) == pytest.approx((2.5 - 2.35336 * 1.29099 / 2, 2.5 + 2.35336 * 1.29099 / 2), rel=1e-4)
    assert mean_interval([1.0]) == (-math.inf, math.inf)


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    runs = rng.exponential(1.0, (400, 10))
    covered = np.mean([low <= 1.0 <= high for low, high in map(mean_interval, runs)])
    assert 0.82 <= covered <= 0.93  # 90 % for normal numbers; a little less for ten exponential ones


def test_batch_means_are_wider_than_an_interval_that_ignores_correlation() -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal(20_000)
    series = np.zeros(len(noise))
    for i in range(1, len(noise)):
        series[i] = 0.95 * series[i - 1] + noise[i]
    found = batch_means(series)
    assert found is not None
    naive = mean_interval(series)
    assert found[1] - found[0] > 3 * (naive[1] - naive[0])  # theory: sqrt((1 + 0.95) / (1 - 0.95)) = 6.2
    assert batch_means(series[:150]) is None


def test_replications_are_averaged_and_bounded(calm: Records) -> None:
    summaries = [{"a": 1.0, "b": {"c": 2, "d": None}}, {"a": 3.0, "b": {"c": 4, "d": None}}]
    assert mean_summary(summaries) == {"a": 2.0, "b": {"c": 3.0, "d": None}}
    intervals = replication_intervals(summaries)
    assert set(intervals) == {"a", "b.c"}
    assert intervals["a"]["low"] == pytest.approx(2 - 6.31375 * math.sqrt(2) / math.sqrt(2), rel=1e-4)


def test_the_table_of_attributes_is_whole() -> None:
    keys = [(row.table, row.name) for row in ATTRIBUTES]
    assert len(set(keys)) == len(keys)
    assert all(row.meaning for row in ATTRIBUTES)
    assert "| ttft_s | s | requests |" in markdown("summary")


def test_the_records_have_the_columns_that_are_described(calm: Records) -> None:
    assert set(with_latencies(calm.requests)) | {"replication"} == set(attributes("requests"))
    assert set(calm.steps) | {"replication"} == set(attributes("steps"))
    assert set(calm.events) | {"replication"} == set(attributes("events"))
