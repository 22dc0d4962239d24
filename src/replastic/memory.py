"""Memory of the process: room, asked for before something large is begun, and what becomes of memory that is freed."""

from __future__ import annotations

import ctypes
from pathlib import Path

from replastic.errors import UserError

_TRIM_NEVER, _MAP_NEVER = (-1, -1), (-4, 0)
"""Parameters of mallopt and their values. By M_TRIM_THRESHOLD nothing is given back from the end of the heap; by
M_MMAP_MAX no block is mapped on its own, to be unmapped when it is freed."""


def free_memory() -> int | None:
    """Bytes of memory that this process could still take; None where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = next((line for line in lines if line.startswith("MemAvailable:")), None)
    limits = [int(found.split()[1]) * 1024] if found else []
    limits += _of_the_group()
    return min(limits, default=None)


def check_memory(needed: int, thing: str, remedy: str) -> None:
    """See that there is memory for something large.

    Args:
        needed: Bytes.
        thing: Its name and size, with which the message begins.
        remedy: The way to need less, in the imperative.

    Raises:
        UserError: There is less.
    """
    free = free_memory()
    if free is not None and needed > free:
        raise UserError(f"{thing}, but only {free / 1e9:.3g} GB of memory are free: {remedy}")


def keep_freed_memory() -> bool:
    """Let this process keep the memory it frees for what it takes next.

    An update frees large blocks and the next one takes them again. By default the GNU C library gives them back to the
    system in between, and then every page that is touched again costs a fault. The setting holds for the whole process,
    so it is for processes that do nothing but train; `give_back_freed_memory` ends a piece of their work.

    Returns:
        Whether the C library has the setting.
    """
    library = _gnu_c_library()
    return library is not None and all(library.mallopt(*setting) for setting in (_TRIM_NEVER, _MAP_NEVER))


def give_back_freed_memory() -> None:
    """Give the memory that is free back to the system, where the C library can do that."""
    library = _gnu_c_library()
    if library is not None:
        library.malloc_trim(0)


def _gnu_c_library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # Windows
        return None
    return library if hasattr(library, "gnu_get_libc_version") else None


def _of_the_group() -> list[int]:
    """Bytes that the process's control group (of a container, a batch system) leaves it, if it sets a limit."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = (root / "memory.current").read_text(encoding="ascii").strip()
        return [] if limit == "max" else [max(0, int(limit) - int(used))]
    except (OSError, ValueError):
        return []
