"""Autoscaling of pools as scenarios ask for it: what is paid for is what is on, and bad bounds are refused in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparsesim.errors import InputError
from sparsesim.scenario import KvTransfer, Scenario
from sparsesim.serving import serve, transfer_of
from sparsesim.sim.transfer import SharedLinks
from sparsesim.simulation import mean_replicas, simulate
from sparsesim.system import systems
from sparsesim.workload import generate

SCALE = {"least": 1, "most": 3, "target": 8, "interval": "1 s", "start_up": "2 s", "patience": "3 s"}
POOL = {"hardware": "h100-sxm"}


def scenario(prefill: dict[str, Any], decode: dict[str, Any], **others: Any) -> Scenario:
    points = [{"at": "0 s", "rate": "2 /s"}, {"at": "20 s", "rate": "40 /s"}, {"at": "40 s", "rate": "2 /s"}]
    lengths = {"kind": "fixed", "prompt": "2000 tok", "output": "100 tok"}
    work = {"arrivals": {"kind": "ramp", "points": points}, "lengths": lengths, "duration": "60 s"}
    pools = {"prefill": {**POOL, **prefill}, "decode": {**POOL, **decode}}
    return Scenario.of({"model": "llama-3.1-8b", "deployment": {"pools": pools}, "workload": work, **others})


def test_device_hours_are_those_of_replicas_that_are_on() -> None:
    price = {"power": {"price": "3600 USD/h"}}  # a dollar a second and device
    scaled = simulate(scenario({"autoscale": SCALE}, {"tp": 2, "autoscale": SCALE}, **price))
    fixed = simulate(scenario({"replicas": 3}, {"tp": 2, "replicas": 3}, **price))
    seconds = scaled.summary["duration_s"]
    assert fixed.summary["economy"]["cost"] == pytest.approx((3 + 2 * 3) * fixed.summary["duration_s"])
    assert 3 * seconds < scaled.summary["economy"]["cost"] < 9 * seconds
    assert scaled.summary["economy"]["cost"] == pytest.approx(scaled.manifest["devices"] * seconds)
    assert scaled.summary["energy_j"] < fixed.summary["energy_j"]
    starting = scaled.tables["events"]["event"] == "replica_starting"
    assert starting.any()


def test_the_mean_is_over_what_is_measured() -> None:
    asked = scenario({"autoscale": SCALE}, {})
    pools = systems(asked)
    records = serve(asked, pools, generate(asked.workload, 0, 0, asked.folder))
    mine = records.replicas["role"] == "prefill"
    on = np.subtract(records.replicas["down_s"], records.replicas["up_s"])[mine].sum()
    assert mean_replicas([records], pools) == {"prefill": pytest.approx(float(on) / records.end_s)}
    late = mean_replicas([records], pools, 50.0)["prefill"]
    on = np.subtract(records.replicas["down_s"], np.maximum(records.replicas["up_s"], 50.0))[mine].clip(min=0).sum()
    assert late == pytest.approx(float(on) / (records.end_s - 50.0))


def test_pools_share_a_node_only_if_they_do_at_their_largest() -> None:
    # 2 + 6 devices fit a node of eight, 2 + 7 do not
    for most, speed in ((6, 450e9), (7, 50e9)):
        pools = systems(scenario({"replicas": 2}, {"autoscale": {**SCALE, "most": most}}))
        moved = transfer_of(pools, KvTransfer())
        assert isinstance(moved, SharedLinks)
        assert moved.out_bytes_per_s == speed


@pytest.mark.parametrize(
    ("prefill", "others", "said"),
    [
        ({"replicas": 4, "autoscale": SCALE}, {}, r"deployment.pools.prefill: replicas 4 at the start .* 1..3"),
        ({"autoscale": {**SCALE, "least": 4}}, {}, r"deployment.pools.prefill.autoscale: least 4 is above most 3"),
        ({"autoscale": {"most": 3}}, {}, r"deployment.pools.prefill.autoscale.target: "),
    ],
)
def test_bad_bounds_are_refused_at_their_place(prefill: dict[str, Any], others: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        scenario(prefill, {}, **others)
