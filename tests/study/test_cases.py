"""Cases of a study: combinations, axes of mappings, names."""

from __future__ import annotations

from typing import Any

import pytest

from sparsesim.errors import InputError
from sparsesim.scenario import Scenario
from sparsesim.study.cases import case_name, cases
from sparsesim.study.compare import run_cases


def scenario(axes: dict[str, list[Any]]) -> Scenario:
    workload = {"kind": "static", "batch": 64, "context": "100 tok"}
    deployment = {"hardware": "h100-sxm", "dp": 8, "ep": 8}
    study = {"kind": "compare", "axes": axes}
    return Scenario.of({"model": "qwen3-30b-a3b", "deployment": deployment, "workload": workload, "study": study})


def test_every_combination_is_a_case() -> None:
    made = list(cases(scenario({"deployment.dp": [8, 16], "workload.batch": [1, 2, 3]})))
    assert [case.name for case in made][:2] == ["dp=8 batch=1", "dp=8 batch=2"]
    assert [(c.scenario.deployment.dp, c.scenario.workload.batch) for c in made] == [  # type: ignore[attr-defined]
        (8, 1), (8, 2), (8, 3), (16, 1), (16, 2), (16, 3)
    ]  # fmt: skip


def test_a_mapping_is_laid_over_what_stands_there() -> None:
    first, second = cases(scenario({"deployment": [{"dp": 16, "ep": 16}, {"tp": 2}]}))
    assert (first.name, second.name) == ("dp=16 ep=16", "tp=2")
    assert (first.scenario.deployment.ep, first.scenario.deployment.tp) == (16, 1)
    assert (second.scenario.deployment.dp, second.scenario.deployment.tp) == (8, 2)


def test_an_axis_of_no_key_sets_keys_from_the_top() -> None:
    (made,) = cases(scenario({"size": [{"deployment": {"dp": 16, "ep": 16}, "workload": {"batch": 128}}]}))
    assert made.name == "dp=16 ep=16 batch=128"
    assert made.scenario.deployment.dp == 16
    assert made.scenario.workload.batch == 128  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="siez"):
        list(cases(scenario({"size": [{"siez": 1}]})))


def test_a_member_of_a_family_replaces_what_stands_there() -> None:
    placements = ["balanced", {"kind": "replicated", "redundant": 32}]
    made = list(cases(scenario({"deployment.placement": placements})))
    assert [case.scenario.deployment.placement.kind for case in made] == ["balanced", "replicated"]
    assert [case.name for case in made] == ["balanced", "replicated (redundant: 32)"]
    assert case_name({"deployment.placement": placements[1], "b": 1}) == "placement=replicated (redundant: 32) b=1"


@pytest.mark.parametrize(("kind", "hint"), [("compare", "study.kind: sweep or"), ("sweep", "sparsesim sweep")])
def test_the_hardwares_figures_are_for_sweep_and_sensitivity(kind: str, hint: str) -> None:
    """An axis that a profile has to be written for is no unknown key."""
    axes = {"hardware.memory.bandwidth": ["3 TB/s", "4 TB/s"]}
    with pytest.raises(InputError, match=rf"study\.axes\.hardware\.memory\.bandwidth: only sweep .* \({hint}"):
        list(cases(scenario(axes).with_settings([f"study.kind={kind}"])))


@pytest.mark.parametrize("kind", ["plan", "capacity"])
def test_a_study_of_another_command_is_not_read_as_a_comparison(kind: str) -> None:
    scenario = Scenario.load({"plan": "plan-llama-3.1-8b-8xh100", "capacity": "capacity-llama-3.1-8b"}[kind])
    with pytest.raises(InputError, match=rf"study\.kind: the scenario's study is a {kind} \(sparsesim {kind}\)"):
        run_cases([scenario], lambda _: None)
