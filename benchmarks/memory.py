"""Peak memory of one piece of work beyond what stood before it, and fresh processes to measure it in."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

MIB = 2**20


def peak(work: Callable[[], object], device: str = "cpu") -> float:
    """MiB that `work` needs beyond what is there before: live tensors on a GPU, else the resident set (Linux).

    On a CPU call `work` once before, on something of the same size, so that libraries have loaded and keep what they
    need for good; and be in a process of `fresh_process`.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / MIB
    ctypes.CDLL(None).malloc_trim(0)  # what was freed must not hide what is taken next
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = _resident("VmRSS")
    work()
    return (_resident("VmHWM") - before) / MIB


def fresh_process(*command: str) -> str:
    """Run a Python script in an interpreter of its own that gives freed tensors back at once; its last line."""
    # every tensor of 64 KiB or more is mapped on its own and unmapped when freed, so that the mark counts live ones
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return done.stdout.splitlines()[-1]


def _resident(field: str) -> int:
    """Bytes, from the kernel's account of this process."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found.group(1))
