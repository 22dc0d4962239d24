"""The surroundings of a run: versions, hardware and the commit of this checkout, as run.json keeps them."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from replastic._version import __version__
from replastic.registry import plugin_hashes


def environment() -> dict[str, Any]:
    """Versions, plug-ins, hardware, and revision and dirty flag of the checkout this package lies in, for run.json."""
    return {
        "replastic": __version__,
        "python": platform.python_version(),
        "packages": dict(_versions(("torch", "numpy", "safetensors", "scipy", "scikit-learn"))),
        "plugins": plugin_hashes(),
        "git": _git(),
        "platform": platform.platform(),
        "processor": processor(),
        "cores": os.cpu_count(),
    }


def _versions(names: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for name in names:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue


def _git() -> dict[str, Any] | None:
    def call(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        return {"revision": call("rev-parse", "HEAD"), "dirty": bool(call("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def processor() -> str:
    """Its name; empty if the system does not tell."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
