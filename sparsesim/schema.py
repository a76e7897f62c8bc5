"""The scenario's JSON schema for editors, and the ops' columns."""

from __future__ import annotations

import dataclasses
from typing import Any

from sparsesim.scenario import Scenario
from sparsesim.work import OPS, columns


def scenario_schema() -> dict[str, Any]:
    """JSON schema of a scenario file, built-in kinds included."""
    schema = Scenario.model_json_schema(mode="validation")
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema.setdefault("properties", {})["extends"] = {"type": "string", "description": "a file this one is laid over"}
    return schema


def op_columns() -> list[dict[str, Any]]:
    """One row per op and column: its unit, its default and what it means."""
    return [
        {
            "op": name,
            "column": column,
            "unit": field.metadata["unit"],
            "default": "required" if field.default is dataclasses.MISSING else str(field.default),
            "meaning": field.metadata["meaning"],
        }
        for name, op in OPS.items()
        for column, field in columns(op).items()
    ]
