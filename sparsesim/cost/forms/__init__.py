"""Every op's time form, by op name."""

from __future__ import annotations

from typing import Any

from sparsesim.cost.forms.attention import (
    AttentionBackwardForm,
    AttentionDecodeForm,
    AttentionFlashForm,
    AttentionPrefillForm,
    MlaDecodeForm,
    MlaPrefillForm,
)
from sparsesim.cost.forms.base import Form, Parameter, Timing
from sparsesim.cost.forms.collective import (
    AllGatherForm,
    AllReduceForm,
    AllToAllForm,
    ReduceScatterForm,
    SendForm,
)
from sparsesim.cost.forms.gemm import GemmForm
from sparsesim.cost.forms.memory import CopyForm, PointwiseForm, ThresholdGemvForm
from sparsesim.cost.forms.moe import MoeFfnForm
from sparsesim.cost.forms.routed import MoeCombineForm, MoeDispatchForm
from sparsesim.cost.forms.sparse_ffn import SparseFfnForm, SparseFfnTrainForm
from sparsesim.cost.forms.ssm import SsmScanForm, SsmStepForm

FORMS: dict[str, Form[Any]] = {
    form.op: form
    for form in (
        GemmForm(),
        AttentionPrefillForm(),
        AttentionFlashForm(),
        AttentionBackwardForm(),
        AttentionDecodeForm(),
        MlaPrefillForm(),
        MlaDecodeForm(),
        SsmScanForm(),
        SsmStepForm(),
        MoeFfnForm(),
        SparseFfnForm(),
        SparseFfnTrainForm(),
        AllReduceForm(),
        AllGatherForm(),
        ReduceScatterForm(),
        AllToAllForm(),
        MoeDispatchForm(),
        MoeCombineForm(),
        SendForm(),
        PointwiseForm(),
        CopyForm(),
        ThresholdGemvForm(),
    )
}

__all__ = ["FORMS", "Form", "Parameter", "Timing"]
