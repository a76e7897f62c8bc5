"""The schema that editors read accepts what the command reads, and refuses what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from sparsesim.loading import load_yaml
from tests.cli.conftest import Call

ROOT = Path(__file__).parents[2]
OTHERS = {"models", "densities", "topologies"}
SCENARIOS = sorted(p for p in (ROOT / "scenarios").rglob("*.yaml") if p.parent.name not in OTHERS)


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "docs/schema/scenario.json").read_text())
    return found


def faults(schema: dict[str, Any], values: Any) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(values)]


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: str(path.stem))
def test_every_shipped_scenario_is_valid(schema: dict[str, Any], path: Path) -> None:
    assert not faults(schema, load_yaml(path).values)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rate": "5 /s"}, "'rate' was unexpected"),
        ({"deployment": {"hardware": "h100-sxm", "tpp": 2}}, "'tpp' was unexpected"),
        ({"model": 3}, "3 is not of type 'string'"),
        ({"slo": {"ttft": 500}}, "500 is not"),
    ],
)
def test_what_the_command_refuses_the_schema_refuses(
    scenario: Path, schema: dict[str, Any], change: dict[str, Any], said: str, call: Call
) -> None:
    values = load_yaml(scenario).values
    assert not faults(schema, values)
    found = faults(schema, values | change)
    assert found
    key, value = next(iter(change.items()))
    assert call("estimate", "small.yaml", "--set", f"{key}={json.dumps(value)}").exit_code == 2
    assert any(said in fault for fault in found)
