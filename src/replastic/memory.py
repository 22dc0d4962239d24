"""Room in memory, asked for before something large is begun."""

from __future__ import annotations

from pathlib import Path

from replastic.errors import UserError


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


def _of_the_group() -> list[int]:
    """Bytes that the process's control group (of a container, a batch system) leaves it, if it sets a limit."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text(encoding="ascii").strip()
        used = (root / "memory.current").read_text(encoding="ascii").strip()
        return [] if limit == "max" else [max(0, int(limit) - int(used))]
    except (OSError, ValueError):
        return []
