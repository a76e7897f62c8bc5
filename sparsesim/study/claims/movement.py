"""Where a step's time and joules go: experts over nodes, and decoding over the batch."""

from __future__ import annotations

from collections.abc import Iterator

from sparsesim.cost.kernel import cost_model
from sparsesim.scenario import Hardware
from sparsesim.study.claims.base import Claim, Row, answers, curve
from sparsesim.system import gpu_of


def over_nodes() -> Iterator[Row]:
    """What takes most of a step, by nodes."""
    for settings, run in answers("moe-over-nodes-prefill"):
        bound = run.summary["bound"]["prefill"]
        ranks = settings["deployment"]["ep"]
        name = f"prefill, {ranks} GPUs: network's share of the time"
        yield Row(name, None, 100 * bound["network"], "%", None, _most(bound))
    for settings, run in answers("moe-over-nodes"):
        bound = run.summary["bound"]["decode"]
        ranks, batch = settings["deployment"]["ep"], settings["workload.batch"]
        if batch in (64, 4096):
            name = f"decode, {ranks} GPUs, {batch} sequences: network's share"
            yield Row(name, None, 100 * bound["network"], "%", None, _most(bound))


def _most(bound: dict[str, float]) -> str:
    """The shares of a step's time, the largest first."""
    shares = sorted(bound.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares if share >= 0.005)


def data_movement() -> Iterator[Row]:
    """Shares of a decoded token's joules over the batch."""
    per_flop = cost_model(gpu_of(Hardware(name="h100-sxm"))).power.flop_energy("bf16")
    for settings, run in answers("decode-data-movement"):
        batch, parts = settings["workload.batch"], run.summary["energy_by_component_j"]
        if batch in (1, 8, 64, 256):
            dynamic = sum(parts.values()) - parts["static"]
            memory, static = 100 * parts["memory"] / dynamic, 100 * parts["static"] / sum(parts.values())
            arithmetic = 100 * float(run.tables["ops"]["flop"].sum()) * per_flop / dynamic
            why = "the rest moves bytes inside the chip: weights and caches to the multiprocessors, tiles' padding"
            yield Row(f"batch {batch}: arithmetic's share of the dynamic energy", None, arithmetic, "%")
            yield Row(f"batch {batch}: memory's share", None, memory, "%", None, why if batch == 1 else "")
            yield Row(f"batch {batch}: static power's share of all", None, static, "%")
    x, joules = curve("decode-data-movement", "j_per_tok", "workload.batch")
    why = "the weights are read once for the whole batch"
    yield Row(f"energy a token, batch 1 over {x[-1]:.0f}", None, float(joules[0] / joules[-1]), "", None, why)


CLAIMS = (
    Claim(
        "5. Experts over nodes",
        "The Sparsity Frontier: Cutting the LLM Energy Tax",
        "expert parallelism shifts the bottleneck from compute to the interconnect between nodes",
        ("moe-over-nodes", "moe-over-nodes-prefill"),
        lambda: list(over_nodes()),
    ),
    Claim(
        "7. Energy is data movement in decode",
        "The Sparsity Frontier: Cutting the LLM Energy Tax",
        "data movement across the memory wall, not computation, dominates the energy",
        ("decode-data-movement",),
        lambda: list(data_movement()),
    ),
)
