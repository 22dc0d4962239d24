"""Freed memory is kept for the next update where a process asks for it, and given back at the end of its work."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from replastic import memory

SCRIPT = """
import resource, sys
from replastic.memory import give_back_freed_memory, keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1])

if sys.argv[1] == "kept":
    assert keep_freed_memory()
block = bytearray(100_000_000)
del block
before = faults()
for _ in range(5):
    block = bytearray(100_000_000)
    del block
counted = faults() - before
kept = resident()
give_back_freed_memory()
print(counted, kept - resident())
"""


def _has_mallopt() -> bool:
    try:
        return hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
    except (OSError, TypeError):
        return False


@pytest.mark.skipif(not _has_mallopt() or sys.platform != "linux", reason="needs the GNU C library")
def test_pages_are_touched_for_the_first_time_once() -> None:
    found = {}
    for setting in ("kept", "given back"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, setting], capture_output=True, text=True, check=True, timeout=60
        )
        found[setting] = [int(word) for word in done.stdout.split()]
    pages = 100_000_000 // 4096
    assert found["given back"][0] > 4 * pages, "each block was mapped anew"
    assert found["kept"][0] < pages / 10
    assert found["kept"][1] > 0.9 * pages, "what was kept goes back when it is asked for"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        """Has none of the functions."""

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: Other())
    assert not memory.keep_freed_memory()
    memory.give_back_freed_memory()

    def none(name: object) -> object:
        raise TypeError("Windows")

    monkeypatch.setattr(memory.ctypes, "CDLL", none)
    assert not memory.keep_freed_memory()
