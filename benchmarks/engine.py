"""Speed of the serving engine; prints JSON.

W1: 512 prompt and 128 output tokens, Poisson 4 requests/s per replica, token budget 2048, at most 128 running, paging
and recording on, with 1, 16 and 128 replicas. W1 also at a
quarter of the requests (cost is linear) and with a prefix cache. W2: one replica at 14 requests/s. The step model is
synthetic (Llama-3.1-8B on an H100 to first order): this times the engine alone.

Usage: python benchmarks/engine.py [--requests 100000] [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from sparsesim.sim.records import Records
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.least_outstanding import LeastOutstanding
from sparsesim.sim.run import simulate_fleet
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.workload.requests import PrefixBlocks, RequestTable

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "sim"))
from step_models import Affine

KV_BLOCKS = 27_000  # 80 GB less 16 GB of weights at 128 KiB per token, 16 tokens a block
RULES = Continuous(max_running=128, token_budget=2048)


def conversations(requests: int) -> PrefixBlocks:
    """Four blocks of 128 tokens a prompt, the first two shared by one in a hundred."""
    rows = np.arange(requests)[:, None]
    ids = np.where(np.arange(4) < 2, rows % 100 * 4, 1000 + rows * 4) + np.arange(4)
    return PrefixBlocks(ids.ravel(), np.arange(requests + 1) * 4, 128)


def serve(rate_per_s: float, replicas: int, requests: int, cached: bool) -> tuple[float, float, Records]:
    """Wall and processor seconds from the first event to the records, and the records."""
    rng = np.random.default_rng(0)
    arrival = np.cumsum(rng.exponential(1 / (rate_per_s * replicas), requests))
    blocks = conversations(requests) if cached else None
    table = RequestTable.of(arrival, np.full(requests, 512), np.full(requests, 128), prefix_blocks=blocks)
    cache = "pool" if cached else "off"
    spec = ReplicaSpec(Affine(), kv_blocks=KV_BLOCKS, max_context=131_072, prefix_cache=cache)
    start, busy = time.perf_counter(), time.process_time()
    records = simulate_fleet(table, [spec] * replicas, LeastOutstanding(), RULES)
    return time.perf_counter() - start, time.process_time() - busy, records


def measure(
    name: str, rate_per_s: float, replicas: int, requests: int, repeat: int, cached: bool = False
) -> dict[str, Any]:
    """The best of some repetitions; on a machine that is shared, processor time is the steadier figure.

    The peak of memory is that of the process so far.
    """
    wall_s = cpu_s = float("inf")
    records = None
    for _ in range(repeat):
        del records
        wall, cpu, records = serve(rate_per_s, replicas, requests, cached)
        wall_s, cpu_s = min(wall_s, wall), min(cpu_s, cpu)
    return {
        "workload": name,
        "prefix_cache": cached,
        "replicas": replicas,
        "requests": requests,
        "wall_s": round(wall_s, 4),
        "requests_per_wall_s": round(requests / wall_s),
        "requests_per_cpu_s": round(requests / cpu_s),
        "step_rows_per_request": round(len(records.steps["replica"]) / requests, 3),
        "iterations": int(records.steps["iterations"].sum()),
        "finished": int((records.requests["outcome"] == "finished").sum()),
        "peak_memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    results = [measure("W1", 4.0, replicas, asked.requests, asked.repeat) for replicas in (1, 16, 128)]
    results.append(measure("W1", 4.0, 1, asked.requests // 4, asked.repeat))
    results.append(measure("W1", 4.0, 16, asked.requests, asked.repeat, cached=True))
    results.append(measure("W2", 14.0, 1, asked.requests, asked.repeat))
    machine = {"python": platform.python_version(), "cpu": platform.processor() or platform.machine()}
    print(json.dumps({"results": results, **machine}, indent=2))


if __name__ == "__main__":
    main()
