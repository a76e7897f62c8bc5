"""What a study varies and how: one set of options for each kind."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from sparsesim.families import Frozen

Kind = Literal["compare", "sweep", "plan", "capacity", "sensitivity"]
Objective = Literal["cost", "energy", "carbon", "gpus", "latency"]
Evaluation = Literal["simulate", "estimate"]


class CompareOptions(Frozen):
    """Nothing to choose: every combination is run."""


class SweepOptions(Frozen):
    """How the points of a sweep are chosen and answered."""

    evaluate: Evaluation = Field("simulate", description="simulate each point, or answer it in closed form")
    sampling: Literal["grid", "latin"] = Field("grid", description="every combination, or a Latin hypercube")
    samples: int = Field(32, ge=1, description="points of the Latin hypercube")
    seed: int = Field(0, ge=0, description="of the Latin hypercube")


class SensitivityOptions(Frozen):
    """How far figures follow their parameters."""

    evaluate: Evaluation = Field("estimate", description="closed form, or simulation with the same random numbers")
    figures: tuple[str, ...] = Field(
        ("ttft_s.mean", "tpot_s.mean", "j_per_output_tok"), min_length=1, description="of the summary, dotted"
    )
    sobol: bool = Field(False, description="Sobol indices besides the tornado")
    samples: int = Field(64, ge=2, description="of Sobol's sequence, a power of two")
    seed: int = Field(0, ge=0, description="of Sobol's sequence")

    @field_validator("samples")
    @classmethod
    def _power_of_two(cls, samples: int) -> int:
        if samples & (samples - 1):
            raise ValueError(f"{samples} is not a power of two, as Sobol's sequence needs")
        return samples


class CapacityOptions(Frozen):
    """The highest load within the SLO."""

    path: str = Field("workload.arrivals.rate", description="key that is raised")
    precision: float = Field(0.02, gt=0, lt=1, description="relative width at which bisection stops")
    replications: int = Field(3, ge=1, description="each bisected with random numbers of its own")


class PlanOptions(Frozen):
    """What is sought among deployments, and how thoroughly."""

    objective: Objective = Field("cost", description="what is lowest for the winner")
    devices: int | None = Field(None, ge=1, description="at most, all replicas; else the scenario's own number")
    finalists: int = Field(10, ge=1, description="candidates that are simulated")
    requests: int = Field(2000, ge=1, description="of each simulation, the workload's first")
    pools: bool | Literal["only"] | None = Field(
        None,
        description="search pools of prefill and decode beside replicas that do both, or only pools; by default where"
        " the deployment or an axis names pools",
    )


OPTIONS: dict[str, type[Frozen]] = {
    "compare": CompareOptions,
    "sweep": SweepOptions,
    "plan": PlanOptions,
    "capacity": CapacityOptions,
    "sensitivity": SensitivityOptions,
}


class Study(Frozen):
    """What is varied, by dotted path."""

    kind: Kind
    axes: dict[str, list[Any]] = Field(default_factory=dict)
    options: PlanOptions | SweepOptions | SensitivityOptions | CapacityOptions | CompareOptions = Field(
        default_factory=dict, validate_default=True, description="of the study's kind"
    )

    @field_validator("axes", mode="before")
    @classmethod
    def _by_path(cls, axes: Any) -> Any:
        """A path is one key with dots in it, which `--set` would take for keys below each other."""
        nested = [path for path, values in axes.items() if isinstance(values, dict)] if isinstance(axes, dict) else []
        if nested:
            example = f"--set 'study.axes={{{nested[0]}.key: [value, ...]}}'"
            raise ValueError(f"{nested[0]} holds keys instead of a list of values; a whole path is one key: {example}")
        return axes

    @field_validator("options", mode="before")
    @classmethod
    def _of_the_kind(cls, value: Any, info: ValidationInfo) -> Any:
        """Options are those of the kind; without a known kind there is nothing to say about them."""
        kind = OPTIONS.get(info.data.get("kind", "compare"), CompareOptions)
        return value if isinstance(value, kind) else kind.model_validate(value)

    @model_validator(mode="after")
    def _not_empty(self) -> Self:
        empty = [path for path, values in self.axes.items() if not values]
        if empty or (self.kind in ("compare", "sweep", "sensitivity") and not self.axes):
            raise ValueError(f"nothing to vary{' in ' + ', '.join(empty) if empty else ''}: give each axis its values")
        return self
