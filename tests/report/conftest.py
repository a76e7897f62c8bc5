"""Runs to write and to picture, of a synthetic step model and real op costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparsesim.cost.accumulate import price
from sparsesim.cost.kernel import cost_model
from sparsesim.hardware.device.gpu import Gpu
from sparsesim.hardware.profile import load_device
from sparsesim.metrics.ops import ops_columns
from sparsesim.model.arch import Batch, Chunk
from sparsesim.model.setting import Setting
from sparsesim.model.zoo import load_model
from sparsesim.run import Background, Run, simulated
from sparsesim.scenario import Scenario
from sparsesim.sim.records import Columns, Records
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.run import simulate_fleet
from sparsesim.sim.steps import Channel, DecodeCurve
from sparsesim.workload import generate


class Linear:
    """A step costs 5 ms, 10 us per sequence, 40 ns per token attended and 25 us per prompt token."""

    components = ("compute", "memory", "link", "static")
    windows = (float("inf"),)
    idle_w = 71.0
    active_idle_w = 142.0

    def _values(self, time: Any) -> Any:
        time = np.asarray(time, float)
        return np.stack([100 * time, 250 * time, 30 * time, 142 * time], axis=-1)

    def decode(self, sequences: int) -> DecodeCurve:
        base, knots = 5e-3 + 1e-5 * sequences, np.array([0.0, 1e6])
        time = 4e-8 * sequences * knots
        values = np.concatenate([time[:, None], self._values(time)], axis=1)
        return DecodeCurve(np.concatenate([[base], self._values(base)]), (Channel(float("inf"), knots, values),))

    def mixed(self, decode: int, contexts: Any, chunks: Any, sampled: int) -> Any:
        time = 5e-3 + 1e-5 * decode + 4e-8 * decode * contexts[0] + 2.5e-5 * sum(q for q, _ in chunks)
        joules = self._values(time)
        joules[0] += 1e-2 * sum(q for q, _ in chunks)
        return (time, *joules.tolist())


SCENARIO = {
    "title": "Does one H100 pair hold 8 requests/s of Qwen3-8B?",
    "model": "qwen3-8b",
    "deployment": {"hardware": "h100-sxm", "replicas": 2},
    "workload": {
        "arrivals": {"kind": "gamma", "rate": "8 /s", "cv": 2},
        "lengths": {
            "kind": "lognormal",
            "prompt": {"mean": "800 tok", "cv": 0.9},
            "output": {"mean": "200 tok", "cv": 0.9},
        },
        "requests": 600,
    },
    "slo": {"ttft": "150 ms", "tpot": "9 ms", "percentile": 90},
    "power": {"pue": 1.2, "carbon": "300 gCO2e/kWh", "price": "2.5 USD/h"},
}


def simulate(scenario: Scenario, replications: int = 1) -> list[Records]:
    pool = scenario.deployment
    spec = ReplicaSpec(Linear(), 4000, 40_960)
    return [
        simulate_fleet(generate(scenario.workload, 0, number), [spec] * pool.replicas, pool.router, pool.scheduler)
        for number in range(replications)
    ]


def ops(model: str = "qwen3-8b") -> Columns:
    device = load_device("h100-sxm")
    assert isinstance(device, Gpu)
    costs, arch, setting = cost_model(device), load_model(model), Setting()
    batches = {
        "prefill": Batch(0, 0, (Chunk(1024, 1024, 1),), 1),
        "decode": Batch(64, 1500, (), 64),
    }
    return ops_columns({n: price(arch.tasks(batch, setting), costs) for n, batch in batches.items()}, costs.chip)


BACKGROUND = {
    "bound": {"prefill": {"compute": 0.8, "memory": 0.1, "host": 0.1}, "decode": {"memory": 0.9, "host": 0.1}},
    "provenance": {"hardware": "h100-sxm (datasheet, measured)", "kernels": "assumed"},
    "memory": {"all": {"weight_bytes": 16.4e9, "reserve_bytes": 3e9, "kv_blocks": 4000}},
    "assumptions": ["Devices keep their clocks up for 10 s after a step (assumed)."],
    "citations": ["Yang et al., Qwen3 Technical Report, 2025"],
    "devices": 2,
    "node_share_w": 350.0,
}


@pytest.fixture(scope="session")
def scenario() -> Scenario:
    return Scenario.of(SCENARIO)


@pytest.fixture(scope="session")
def run(scenario: Scenario) -> Run:
    return simulated(scenario, simulate(scenario), Background(ops=ops(), **BACKGROUND), wall_s=0.5)


@pytest.fixture(scope="session")
def replicated(scenario: Scenario) -> Run:
    return simulated(scenario, simulate(scenario, 3), Background(**BACKGROUND), wall_s=1.5)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run"
