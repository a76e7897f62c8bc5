"""CUDA C++ sources built on demand with nvcc and called through ctypes: no build at install time, no torch headers.

A library is kept under the user's cache folder (``$SPARSESIM_CACHE``, else ``~/.cache/sparsesim``), named by a hash
of its sources and flags, so each version is built once.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sparsesim.kernels.common.requirements import KernelRequirementError

HOPPER_FLAGS = ("-gencode=arch=compute_90a,code=sm_90a",)
"""wgmma and setmaxnreg exist on the architecture-specific target only."""
_HEADERS = Path(__file__).parent / "cuda"
_COMMON_FLAGS = (f"-I{_HEADERS}", "-O3", "-std=c++17", "-shared", "-Xcompiler", "-fPIC")


def compiler() -> str | None:
    """Path of nvcc, from ``$CUDACXX``, the path or the usual folder; ``None`` where there is none."""
    usual = Path("/usr/local/cuda/bin/nvcc")
    named = os.environ.get("CUDACXX") or shutil.which("nvcc")
    return named or (str(usual) if usual.exists() else None)


def hopper_missing() -> str | None:
    """Say why CUDA C++ kernels for Hopper cannot run here, or ``None`` when they can."""
    if not torch.cuda.is_available():
        return "no CUDA device is visible to PyTorch"
    if torch.cuda.get_device_capability() != (9, 0):
        return f"{torch.cuda.get_device_name()} is no Hopper GPU (compute capability 9.0)"
    if compiler() is None:
        return "no nvcc is found (set CUDACXX or put it on the path)"
    return None


@functools.cache
def library(sources: tuple[Path, ...], flags: tuple[str, ...] = HOPPER_FLAGS) -> ctypes.CDLL:
    """Build the first of ``sources`` (the others are headers it includes) and load it.

    Raises ``KernelRequirementError`` where no compiler is found or the build fails, with the compiler's words.
    """
    target = _cache() / f"{sources[0].stem}-{_digest(sources, flags)}.so"
    if not target.exists():
        _build(sources[0], flags, target)
    return ctypes.CDLL(str(target))


@functools.cache
def hopper_library(source: Path) -> ctypes.CDLL:
    """Build a kernel for Hopper that may use the headers in ``common/cuda``, and load it.

    Raises ``KernelRequirementError`` naming what is missing.
    """
    missing = hopper_missing()
    if missing is not None:
        raise KernelRequirementError(f"{source.stem}: {missing}; use the Triton path instead")
    return library((source, *sorted(_HEADERS.glob("*.cuh"))))


def check(status: int, what: str) -> None:
    """Raise where a launcher returned a CUDA error."""
    if status != 0:
        raise KernelRequirementError(f"{what}: CUDA error {status} at launch")


def pointer(tensor: Any) -> ctypes.c_void_p:
    """Address of a tensor's data; null for ``None``."""
    return ctypes.c_void_p(None if tensor is None else tensor.data_ptr())


def current_stream() -> ctypes.c_void_p:
    """PyTorch's current stream."""
    return ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)


def _cache() -> Path:
    folder = Path(os.environ.get("SPARSESIM_CACHE") or Path.home() / ".cache" / "sparsesim")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _digest(sources: Sequence[Path], flags: Sequence[str]) -> str:
    digest = hashlib.sha256(" ".join(flags).encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _build(source: Path, flags: Sequence[str], target: Path) -> None:
    nvcc = compiler()
    if nvcc is None:
        raise KernelRequirementError(
            f"{source.name}: no nvcc is found to build it; install the CUDA toolkit or set CUDACXX, or use the "
            "Triton path, which needs none"
        )
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder) / target.name
        command = [nvcc, *_COMMON_FLAGS, *flags, "-o", str(made), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise KernelRequirementError(f"{source.name}: nvcc failed\n{done.stderr}")
        made.replace(target)
