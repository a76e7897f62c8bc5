"""A fleet of 10,000 GPUs of expert-parallel replicas over an hour of a million requests; prints JSON.

The scenario `fleet-10000`, simulated on one core: wall and processor seconds, peak memory, and what became of the
requests. Bounds: 180 s and 4 GB.

Usage: python benchmarks/fleet.py [--requests 1000000]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from typing import Any

import numpy as np

from sparsesim.scenario import Scenario
from sparsesim.serving import serve
from sparsesim.system import single_pool
from sparsesim.workload import generate


def watch(ended: int, requests: int, now_s: float) -> None:
    """Progress on the terminal."""
    sys.stderr.write(f"\r{ended:,} of {requests:,} requests, {now_s:,.0f} s simulated")


def measure(requests: int) -> dict[str, Any]:
    """Simulate so many of the scenario's requests."""
    wall, busy = time.perf_counter(), time.process_time()
    scenario = Scenario.load("fleet-10000", [f"workload.requests={requests}"])
    system = single_pool(scenario)
    table = generate(scenario.workload, 0, 0, scenario.folder)
    ready = time.perf_counter()
    records = serve(scenario, system, table, progress=watch)
    end = time.perf_counter()
    outcomes, counts = np.unique(np.asarray(records.requests["outcome"], str), return_counts=True)
    return {
        "gpus": system.devices,
        "replicas": system.pool.replicas,
        "requests": len(table),
        "simulated_s": records.end_s,
        "outcomes": dict(zip(outcomes.tolist(), counts.tolist(), strict=True)),
        "step_rows": len(records.steps["start_s"]),
        "prepared_s": ready - wall,
        "simulation_s": end - ready,
        "wall_s": end - wall,
        "processor_s": time.process_time() - busy,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1_000_000)
    sys.stdout.write(json.dumps(measure(parser.parse_args().requests), indent=2) + "\n")
