"""Fitted network figures by name: hwprofiles/fits/network/NAME.json, written by `fit`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from sparsesim.cost.network.collectives import Protocol
from sparsesim.cost.network.moe import ExpertKernel
from sparsesim.errors import InputError, Problem, closest
from sparsesim.loading import search_folders

FOLDER = "hwprofiles/fits/network"


def load_kernels(name: str) -> tuple[ExpertKernel, ExpertKernel]:
    """Dispatch and combine of a fit.

    Raises:
        InputError: no such fit (with the closest), or it holds no expert kernels.

    """
    kernels = _section(name, "kernels")
    return ExpertKernel(**kernels["dispatch"]), ExpertKernel(**kernels["combine"])


@dataclass(frozen=True, slots=True)
class KernelFit:
    """Dispatch and combine with where they were measured and how far to trust them (90 %, in log)."""

    name: str
    dispatch: ExpertKernel
    combine: ExpertKernel
    topology: str
    half_width: float


def load_kernel_fit(name: str) -> KernelFit:
    """A fit with its provenance.

    Raises:
        InputError: no such fit (with the closest), or it holds no expert kernels.

    """
    dispatch, combine = load_kernels(name)
    return KernelFit(name, dispatch, combine, str(_section(name, "topology")), float(_section(name, "half_width")))


def load_protocol(name: str) -> Protocol:
    """Efficiencies of a fit.

    Raises:
        InputError: no such fit (with the closest), or it holds no protocol.

    """
    return Protocol(**_section(name, "protocol"))


def _section(name: str, section: str) -> Any:
    found = _read(name)
    if section not in found:
        raise InputError(Problem(f"network fit {name!r} holds no {section}", hint=f"it holds {', '.join(found)}"))
    return found[section]


@lru_cache(maxsize=32)
def _read(name: str) -> dict[str, Any]:
    folders = [folder for folder in search_folders(FOLDER) if folder.parts[-1] == "network" and folder.is_dir()]
    for folder in folders:
        if (file := folder / f"{name}.json").is_file():
            return _parsed(file)
    names = {file.stem for folder in folders for file in folder.glob("*.json")}
    raise InputError(Problem(f"unknown network fit {name!r}", hint=closest(name, names)))


def _parsed(file: Path) -> dict[str, Any]:
    try:
        parsed: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(Problem(f"not JSON: {error.msg}", place=f"{file}:{error.lineno}:{error.colno}")) from None
    return parsed
