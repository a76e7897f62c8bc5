"""Speed of the serving engine; prints JSON.

W1: 512 prompt and 128 output tokens, Poisson 4 requests/s per replica, token budget 2048, at most 128 running, paging
and recording on, with 1, 16 and 128 replicas. W1 also at a
quarter of the requests (cost is linear) and with a prefix cache. W2: one replica at 14 requests/s. Steps are
synthetic (Llama-3.1-8B on an H100 to first order), which times the engine alone, or the cost core's own for that model
and card, tables and all. Traces are replayed whole with the core's steps on 8 replicas: Azure 2023's conversations and
Mooncake's synthetic ones with a prefix cache.

Usage: python benchmarks/engine.py [--requests 100000] [--repeat 3]
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sparsesim.scenario import Scenario
from sparsesim.serving import replica_spec
from sparsesim.serving import serve as serve_scenario
from sparsesim.sim.records import Records
from sparsesim.sim.replica import ReplicaSpec
from sparsesim.sim.routers.least_outstanding import LeastOutstanding
from sparsesim.sim.run import simulate_fleet
from sparsesim.sim.schedulers.continuous import Continuous
from sparsesim.system import systems
from sparsesim.workload import generate
from sparsesim.workload.requests import PrefixBlocks, RequestTable

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "sim"))
from step_models import Affine

KV_BLOCKS = 27_000  # 80 GB less 16 GB of weights at 128 KiB per token, 16 tokens a block
ANY = {"kind": "static", "batch": 1, "context": "1 tok"}
RULES = Continuous(max_running=128, token_budget=2048)


def conversations(requests: int) -> PrefixBlocks:
    """Four blocks of 128 tokens a prompt, the first two shared by one in a hundred."""
    rows = np.arange(requests)[:, None]
    ids = np.where(np.arange(4) < 2, rows % 100 * 4, 1000 + rows * 4) + np.arange(4)
    return PrefixBlocks(ids.ravel(), np.arange(requests + 1) * 4, 128)


SPECS = ("synthetic", "core")


def core_spec(steps: str, cache: Literal["off", "pool"]) -> ReplicaSpec:
    """A replica with synthetic steps, or as a scenario makes it: its tables are filled while it runs."""
    if steps == "synthetic":
        return ReplicaSpec(Affine(), kv_blocks=KV_BLOCKS, max_context=131_072, prefix_cache=cache)
    return replace(replica_spec(systems(scenario({"hardware": "h100-sxm"}, ANY))["all"]), prefix_cache=cache)


def scenario(deployment: dict[str, Any], workload: dict[str, Any]) -> Scenario:
    """Llama-3.1-8B on a deployment."""
    return Scenario.of({"model": "llama-3.1-8b", "deployment": deployment, "workload": workload})


def replay(name: str, file: str, deployment: dict[str, Any], repeat: int) -> dict[str, Any]:
    """A whole trace on 8 replicas; fresh tables each time."""
    wall_s = cpu_s = float("inf")
    asked = scenario(
        {"hardware": "h100-sxm", "replicas": 8, **deployment}, {"arrivals": {"kind": "trace", "file": file}}
    )
    table = generate(asked.workload, 0, 0, asked.folder)
    for _ in range(repeat):
        pools = systems(asked)
        start, busy = time.perf_counter(), time.process_time()
        records = serve_scenario(asked, pools, table)
        wall_s, cpu_s = min(wall_s, time.perf_counter() - start), min(cpu_s, time.process_time() - busy)
    done = int((records.requests["outcome"] == "finished").sum())
    found = {"workload": name, "steps": "core", "replicas": 8, "requests": len(table), "finished": done}
    return {**found, "wall_s": round(wall_s, 3), "cpu_s": round(cpu_s, 3)}


def serve(rate_per_s: float, replicas: int, requests: int, cached: bool, steps: str) -> tuple[float, float, Records]:
    """Wall and processor seconds from the first event to the records, and the records."""
    rng = np.random.default_rng(0)
    arrival = np.cumsum(rng.exponential(1 / (rate_per_s * replicas), requests))
    blocks = conversations(requests) if cached else None
    table = RequestTable.of(arrival, np.full(requests, 512), np.full(requests, 128), prefix_blocks=blocks)
    spec = core_spec(steps, "pool" if cached else "off")
    start, busy = time.perf_counter(), time.process_time()
    records = simulate_fleet(table, [spec] * replicas, LeastOutstanding(), RULES)
    return time.perf_counter() - start, time.process_time() - busy, records


def measure(
    name: str, rate_per_s: float, replicas: int, requests: int, repeat: int, cached: bool = False, steps: str = SPECS[0]
) -> dict[str, Any]:
    """The best of some repetitions; on a machine that is shared, processor time is the steadier figure.

    The peak of memory is that of the process so far.
    """
    wall_s = cpu_s = float("inf")
    records = None
    for _ in range(repeat):
        del records
        wall, cpu, records = serve(rate_per_s, replicas, requests, cached, steps)
        wall_s, cpu_s = min(wall_s, wall), min(cpu_s, cpu)
    return {
        "workload": name,
        "steps": steps,
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
    """Print the rates of the workloads as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    asked = parser.parse_args()
    results = [measure("W1", 4.0, replicas, asked.requests, asked.repeat) for replicas in (1, 16, 128)]
    results.append(measure("W1", 4.0, 1, asked.requests // 4, asked.repeat))
    results.append(measure("W1", 4.0, 16, asked.requests, asked.repeat, cached=True))
    results.append(measure("W2", 14.0, 1, asked.requests, asked.repeat))
    for name, rate_per_s, replicas in (("W1", 4.0, 1), ("W1", 4.0, 16), ("W1", 4.0, 128), ("W2", 14.0, 1)):
        results.append(measure(name, rate_per_s, replicas, asked.requests, asked.repeat, steps="core"))
    results.append(replay("azure2023_conv", "azure2023_conv.csv", {"router": "least_outstanding"}, asked.repeat))
    cached = {"router": "prefix_aware", "memory": {"prefix_cache": True}}
    results.append(replay("mooncake", "mooncake_fast25_synthetic.jsonl", cached, asked.repeat))
    machine = {"python": platform.python_version(), "cpu": platform.processor() or platform.machine()}
    print(json.dumps({"results": results, **machine}, indent=2))


if __name__ == "__main__":
    main()
