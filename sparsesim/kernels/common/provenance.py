"""Where a measurement comes from, and CSV files that carry it as a header of ``# key: value`` lines."""

from __future__ import annotations

import csv
import datetime
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from sparsesim.kernels.common.energy import nvml_handle


def provenance(what: str, command: str) -> dict[str, str]:
    """Date, device, driver, clocks, temperature, power cap and library versions at the time of the call."""
    pynvml, handle = nvml_handle()
    import triton

    clock = pynvml.nvmlDeviceGetClockInfo
    return {
        "what": what,
        "command": command,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": torch.cuda.get_device_name(),
        "driver": str(pynvml.nvmlSystemGetDriverVersion()),
        "power_cap_w": f"{pynvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000:g}",
        "sm_clock_mhz": str(clock(handle, pynvml.NVML_CLOCK_SM)),
        "memory_clock_mhz": str(clock(handle, pynvml.NVML_CLOCK_MEM)),
        "max_sm_clock_mhz": str(pynvml.nvmlDeviceGetMaxClockInfo(handle, pynvml.NVML_CLOCK_SM)),
        "temperature_c": str(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU)),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
    }


def write_csv(path: Path, header: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write ``rows`` (the columns of all of them, in order of first appearance) below the provenance
    header.
    """
    table = list(rows)
    columns = list(dict.fromkeys(key for row in table for key in row))
    with path.open("w", newline="") as file:
        file.writelines(f"# {key}: {value}\n" for key, value in header.items())
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _plain(value) for key, value in row.items()} for row in table)


def _plain(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
