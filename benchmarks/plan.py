"""Speed of planning on one core: shipped plans from a cold start, without pools and with, and static points once warm.

    OMP_NUM_THREADS=1 python benchmarks/plan.py

Prints wall and CPU seconds: on a busy machine only the CPU seconds say what the program took. Bars: 5 s for
Llama-3.1-8B on 8 H100s, 20 s for DeepSeek-V3 on 32 H200s, first results within 2 s, 50,000 static points/s.
"""

from __future__ import annotations

import subprocess
import sys
import time

import numpy as np

COLD = """
import time
begin = time.perf_counter(), time.process_time()
from sparsesim.scenario import Scenario
from sparsesim.study.planning.search import plan
first = []
told = lambda what, done, of: first.append(time.perf_counter() - begin[0]) if what != "screening" else None
found = plan(Scenario.load({name!r}, {settings!r}), told)
wall, cpu = time.perf_counter() - begin[0], time.process_time() - begin[1]
print(f"{name} {settings}: {{len(found.search.candidates):,}} candidates, {{len(found.search.done)}} simulated,"
      f" first result {{first[0]:.2f}} s, wall {{wall:.2f}} s, CPU {{cpu:.2f}} s: {{found.require().name}}")
"""
POOLS = ("study.options.pools=true",)
PLANS = (
    ("plan-llama-3.1-8b-8xh100", ()),
    ("plan-deepseek-v3-32xh200", ()),
    ("plan-llama-3.1-70b-pools", ()),
    ("plan-deepseek-v3-32xh200", POOLS),
)


def cold() -> None:
    """Run each plan in a process of its own, nothing cached; each prints its seconds."""
    for name, settings in PLANS:
        subprocess.run([sys.executable, "-c", COLD.format(name=name, settings=settings)], check=True)


def static_points(count: int = 200_000) -> float:
    """Operating points (TTFT, TPOT, watts) per second on one layout's curves."""
    from sparsesim.scenario import Scenario
    from sparsesim.study.planning.curves import Load, curves, priced
    from sparsesim.study.planning.operate import Demand, operate
    from sparsesim.system import single_pool

    workload = {"kind": "static", "phase": "decode", "batch": 1, "context": "1024 tok"}
    scenario = Scenario.of({"model": "llama-3.1-8b", "deployment": {"hardware": "h100-sxm"}, "workload": workload})
    steps, load = single_pool(scenario).steps, Load(1000, 250.0)
    over = curves(steps, priced(steps, load, (2048,), 512), steps.costs.power)
    demand = Demand(load, 1.0, 99.0, 3.0, 1.0, 1.0, 2.3)
    rng = np.random.default_rng(0)
    rate, most = rng.uniform(0.1, 25.0, count), rng.integers(8, 512, count).astype(float)
    operate(over, demand, rate[:100], most[:100], 0, pausing=False)
    begin = time.process_time()
    operate(over, demand, rate, most, 0, pausing=False)
    return count / (time.process_time() - begin)


if __name__ == "__main__":
    cold()
    print(f"static points: {static_points():,.0f} /s")
