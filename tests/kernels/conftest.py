"""Kernels run on the GPU where there is one, else under Triton's interpreter on the CPU."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
