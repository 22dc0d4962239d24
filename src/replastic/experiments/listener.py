"""Who is told how the jobs of an experiment go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Listener:
    """Functions that are called while the jobs go on. Each may be left out."""

    progress: Callable[[str, float], None] = field(default=lambda name, phases: None)
    """Called with the name of a job and the number of phases it has completed."""
    ended: Callable[[str, str], None] = field(default=lambda name, problem: None)
    """Called with the name of a job that ended, and with its problem or ""."""
    noted: Callable[[str], None] = field(default=lambda text: None)
    """Called with what is worth knowing although no job failed, in a sentence."""
