"""The machine a record was made on: GPU, driver, versions, commit and load."""

from __future__ import annotations

import os
import platform
import subprocess
from typing import Any

import torch

from replastic.environment import environment


def facts() -> dict[str, Any]:
    """What stands at the head of the summary; `gpu` is None where torch sees none."""
    known = environment()
    return {
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "driver": driver(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": known["git"],
        "processor": known["processor"],
        "cores": os.cpu_count(),
        "load": load(),
    }


def load() -> list[float]:
    """Processes that wanted a core, over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def driver() -> str:
    """Driver, memory and clocks as nvidia-smi tells them; empty without it."""
    asked = "driver_version,memory.total,memory.used,utilization.gpu,clocks.sm"
    try:
        told = subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return told.stdout.strip()
