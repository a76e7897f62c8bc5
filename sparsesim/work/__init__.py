"""The closed vocabulary of what a step asks of devices, by op name."""

from __future__ import annotations

from sparsesim.work.attention import (
    AttentionBackward,
    AttentionDecode,
    AttentionFlash,
    AttentionPrefill,
    MlaDecode,
    MlaPrefill,
)
from sparsesim.work.base import Array, Op, columns, dtype_bytes, required
from sparsesim.work.collective import (
    AllGather,
    AllReduce,
    AllToAll,
    Collective,
    MoeCombine,
    MoeDispatch,
    ReduceScatter,
    Send,
)
from sparsesim.work.ffn import MoeFfn, SparseFfn, SparseFfnTrain
from sparsesim.work.gemm import Gemm, ThresholdGemv
from sparsesim.work.memory import Copy, Pointwise
from sparsesim.work.ssm import SsmScan, SsmStep
from sparsesim.work.task import Task

OPS: dict[str, type[Op]] = {
    op.op: op
    for op in (
        Gemm,
        AttentionPrefill,
        AttentionFlash,
        AttentionBackward,
        AttentionDecode,
        MlaPrefill,
        MlaDecode,
        SsmScan,
        SsmStep,
        MoeFfn,
        SparseFfn,
        SparseFfnTrain,
        AllReduce,
        AllGather,
        ReduceScatter,
        AllToAll,
        MoeDispatch,
        MoeCombine,
        Send,
        Pointwise,
        Copy,
        ThresholdGemv,
    )
}

__all__ = [
    "OPS",
    "AllGather",
    "AllReduce",
    "AllToAll",
    "Array",
    "AttentionBackward",
    "AttentionDecode",
    "AttentionFlash",
    "AttentionPrefill",
    "Collective",
    "Copy",
    "Gemm",
    "MlaDecode",
    "MlaPrefill",
    "MoeCombine",
    "MoeDispatch",
    "MoeFfn",
    "Op",
    "Pointwise",
    "ReduceScatter",
    "Send",
    "SparseFfn",
    "SparseFfnTrain",
    "SsmScan",
    "SsmStep",
    "Task",
    "ThresholdGemv",
    "columns",
    "dtype_bytes",
    "required",
]
