"""The same points give the same numbers wherever they are computed, and nothing that ended is lost."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from sparsesim.errors import InputError
from sparsesim.scenario import Scenario
from sparsesim.study import backends
from sparsesim.study.backends import Backend, compute
from sparsesim.study.points import Point, evaluate, point
from sparsesim.study.sweep import points_of, sweep


def test_one_core_two_cores_and_dask_give_the_same_numbers(swept: Scenario, tmp_path: Path) -> None:
    from distributed import LocalCluster

    one = sweep(swept, tmp_path / "one", jobs=1)
    two = sweep(swept, tmp_path / "two", jobs=2)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster:
        address = cluster.scheduler_address
        dask = sweep(swept, tmp_path / "dask", Backend.parse(f"dask={address}"))
    assert one == two == dask
    assert len(one["cases"]) == 4


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_ray_gives_the_same_numbers(swept: Scenario, tmp_path: Path) -> None:
    assert sweep(swept, tmp_path / "ray", Backend.parse("ray=local")) == sweep(swept, tmp_path / "one", jobs=1)


def test_points_differ_by_what_was_asked(swept: Scenario, tmp_path: Path) -> None:
    summary = sweep(swept, tmp_path, jobs=1)
    assert len({json.dumps(case["summary"]) for case in summary["cases"]}) >= 2
    assert [case["set"]["workload.arrivals.rate"] for case in summary["cases"]] == ["10 /s", "10 /s", "20 /s", "20 /s"]
    assert json.loads((tmp_path / "summary.json").read_text())["partial"] is False


def test_resume_computes_only_what_is_missing(swept: Scenario, tmp_path: Path) -> None:
    points = points_of(swept, tmp_path)
    whole = compute(points, tmp_path / "points", jobs=1).results
    marked = points[1].path(tmp_path / "points")
    marked.write_text(json.dumps({"kept": True}))
    points[2].path(tmp_path / "points").unlink()
    again = compute(points, tmp_path / "points", jobs=1, resume=True).results
    assert again[1] == {"kept": True}
    assert again[2] == whole[2]


def test_a_broken_file_is_not_taken_for_a_result(swept: Scenario, tmp_path: Path) -> None:
    points = points_of(swept, tmp_path)[:1]
    folder = tmp_path / "points"
    folder.mkdir()
    points[0].path(folder).write_text('{"name": "half')
    assert "summary" in (compute(points, folder, jobs=1, resume=True).results[0] or {})


def _dies_once(one: Point, folder: str) -> tuple[Point, str]:
    """Kills its process at one point, the first time."""
    mark = Path(folder) / "died"
    if one.set["deployment.scheduler.max_running"] == 64 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return one, evaluate(one, folder)


def test_a_worker_killed_in_the_middle_loses_nothing_in_the_end(
    swept: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test's module
    monkeypatch.setattr(backends, "_numbered", _dies_once)
    found = compute(points_of(swept, tmp_path), tmp_path / "points", jobs=2)
    assert (tmp_path / "points" / "died").exists()
    assert all(result and "summary" in result for result in found.results)


def test_a_point_that_cannot_be_answered_says_why_and_stops_no_other(values: dict[str, Any], tmp_path: Path) -> None:
    axes = {"model": ["llama-3.2-1b", "llama-3.1-405b"]}
    scenario = Scenario.of({**values, "study": {"kind": "sweep", "axes": axes, "options": {"evaluate": "estimate"}}})
    good, bad = sweep(scenario, tmp_path, jobs=1)["cases"]
    assert "does not fit" in bad["error"]
    assert good["summary"]["ttft_s"]["mean"] > 0


def test_an_unreachable_scheduler_is_named(swept: Scenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "CONNECT_S", 0.5)
    with pytest.raises(InputError, match=r"no Dask scheduler answers at 'tcp://127.0.0.1:1'"):
        sweep(swept, tmp_path, Backend.parse("dask=tcp://127.0.0.1:1"))


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="ray is not installed")
def test_an_unreachable_ray_cluster_is_named_at_once(swept: Scenario, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no Ray cluster answers at '127.0.0.1:1'"):
        sweep(swept, tmp_path, Backend.parse("ray=127.0.0.1:1"))


@pytest.mark.parametrize("text", ["dask", "spark=x", "local=3", "ray="])
def test_a_backend_needs_a_known_kind_and_its_address(text: str) -> None:
    with pytest.raises(InputError, match="is no backend"):
        Backend.parse(text)


def test_a_point_is_known_by_what_it_asks(values: dict[str, Any]) -> None:
    scenario = Scenario.of(values)
    first, same = (point(scenario, {"simulation.seed": 1}, "estimate") for _ in range(2))
    assert first.hash == same.hash
    assert first.hash != point(scenario, {"simulation.seed": 2}, "estimate").hash
    assert first.hash != point(scenario, {"simulation.seed": 1}, "simulate").hash
