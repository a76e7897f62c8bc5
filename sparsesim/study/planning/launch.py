"""A deployment as launch arguments of vLLM and SGLang, with what those engines have no flag for.

Flags as in `vllm serve --help` and `python -m sglang.launch_server --help` of late 2025. Limits of a replica are
divided over its attention ranks where the engine counts them for each (vLLM with data parallelism).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from sparsesim.model.setting import Precision
from sparsesim.system import PoolSystem
from sparsesim.work.base import DTYPE_BYTES

_HUGGING_FACE = re.compile(r"config\.json of (\S+/\S+?) on Hugging Face")
_PROXY = {
    "vllm": "start {replicas} of these for {pool}, each with a VLLM_NIXL_SIDE_CHANNEL_PORT of its own on its host,"
    " and in front of both pools a proxy that knows them, such as vLLM's disagg_proxy_demo.py --prefill .. --decode ..",
    "sglang": "start {replicas} of these for {pool}, and in front of both pools python -m sglang_router.launch_router"
    " --pd-disaggregation --prefill http://HOST:PORT --decode http://HOST:PORT",
}
_KV = {"vllm": {"fp8": "fp8"}, "sglang": {"fp8": "fp8_e4m3"}}


@dataclass(frozen=True, slots=True)
class Launch:
    """Command of one replica, and notes on what it cannot say. `pool` is prefill or decode, or all."""

    engine: str
    pool: str
    command: str
    notes: tuple[str, ...]

    @property
    def name(self) -> str:
        """Engine and pool, as files and summaries name them."""
        return self.engine if self.pool == "all" else f"{self.engine}-{self.pool}"


VLLM_ROLES = {"prefill": "kv_producer", "decode": "kv_consumer"}


def launches(pools: Mapping[str, PoolSystem]) -> tuple[Launch, ...]:
    """One replica of every pool under vLLM and under SGLang."""
    return tuple(made(system) for made in (_vllm, _sglang) for system in pools.values())


def repository(system: PoolSystem) -> str:
    """The model's repository on Hugging Face where its source names one, else its name."""
    found = _HUGGING_FACE.search(system.model.source)
    return found[1].rstrip(";,") if found else system.model.name


def _vllm(system: PoolSystem) -> Launch:
    pool, words = system.pool, [f"vllm serve {repository(system)}"]
    words.append(f"--tensor-parallel-size {pool.tp}")
    words += [f"--pipeline-parallel-size {pool.pp}"] if pool.pp > 1 else []
    words += [f"--data-parallel-size {pool.dp}"] if pool.dp > 1 else []
    words += ["--enable-expert-parallel"] if pool.ep > 1 else []
    words += _precision(system, "vllm")
    words.append(f"--gpu-memory-utilization {pool.memory.utilisation:g}")
    words.append(f"--max-num-seqs {math.ceil(system.max_running / pool.dp)}")
    words.append(f"--max-num-batched-tokens {math.ceil(_budget(system) / pool.dp)}")
    if system.name in VLLM_ROLES:
        role = VLLM_ROLES[system.name]
        words.append(f"""--kv-transfer-config '{{"kv_connector": "NixlConnector", "kv_role": "{role}"}}'""")
    notes = _notes(system, "vllm")
    if pool.ep not in (1, pool.tp * pool.dp):
        notes.append(f"vLLM spreads experts over all tp*dp = {pool.tp * pool.dp} ranks; ep {pool.ep} has no flag")
    if pool.scheduler.kind == "sglang":
        notes.append("the plan's scheduler computes prompts first, as SGLang does; vLLM mixes them with decoding")
    if pool.devices > system.setting.gpus_per_node:
        per_node = max(system.setting.gpus_per_node // (pool.tp * pool.pp), 1)
        if pool.dp > 1:
            words.append(f"--data-parallel-size-local {min(per_node, pool.dp)}")
        else:
            words.append("--distributed-executor-backend ray")
    return Launch("vllm", system.name, " \\\n  ".join(words), tuple(notes))


def _sglang(system: PoolSystem) -> Launch:
    pool = system.pool
    words = [f"python -m sglang.launch_server --model-path {repository(system)}"]
    words.append(f"--tp-size {pool.tp * pool.dp}")
    words += [f"--dp-size {pool.dp} --enable-dp-attention"] if pool.dp > 1 else []
    words += [f"--pp-size {pool.pp}"] if pool.pp > 1 else []
    words += [f"--ep-size {pool.ep}"] if pool.ep > 1 else []
    words += _precision(system, "sglang")
    words.append(f"--mem-fraction-static {pool.memory.utilisation:g}")
    words.append(f"--max-running-requests {system.max_running}")
    words.append(f"--chunked-prefill-size {_budget(system)}")
    if system.name in VLLM_ROLES:
        words.append(f"--disaggregation-mode {system.name} --disaggregation-transfer-backend nixl")
    elif pool.scheduler.kind == "continuous":
        words.append("--enable-mixed-chunk")
    nodes = math.ceil(pool.devices / system.setting.gpus_per_node)
    words += [f"--nnodes {nodes} --node-rank RANK --dist-init-addr HEAD:PORT"] if nodes > 1 else []
    return Launch("sglang", system.name, " \\\n  ".join(words), tuple(_notes(system, "sglang")))


def _budget(system: PoolSystem) -> int:
    return int(getattr(system.pool.scheduler, "token_budget", system.model.max_context))


def _precision(system: PoolSystem, engine: str) -> list[str]:
    own, asked = system.model.precision, system.setting.precision
    words = []
    if asked.weights != own.weights:
        words += [f"--quantization {asked.weights}"] if DTYPE_BYTES[asked.weights] < 2 else [f"--dtype {_long(asked)}"]
    if asked.kv != own.kv or DTYPE_BYTES[asked.kv] < 2:
        words.append(f"--kv-cache-dtype {_KV[engine].get(asked.kv, 'auto')}")
    return words


def _long(precision: Precision) -> str:
    return {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}[precision.weights]


def _notes(system: PoolSystem, engine: str) -> list[str]:
    notes = []
    if system.name in VLLM_ROLES:
        notes.append(_PROXY[engine].format(pool=system.name, replicas=system.pool.replicas))
    elif system.pool.replicas > 1:
        notes.append(f"start {system.pool.replicas} of these and spread requests over them")
    if system.costs.power.cap_w < system.gpu.power.cap.value * 0.98:
        notes.append("set the power cap on every device with nvidia-smi -pl WATTS before")
    if system.setting.precision.weights != system.model.precision.weights:
        notes.append(f"weights in {system.setting.precision.weights}: check the model's quality")
    if system.engine.name != engine:
        notes.append(f"the plan's host times are those of {system.engine.name}")
    return notes
