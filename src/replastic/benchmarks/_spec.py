"""What a benchmark file gives: a protocol, its presets and how the result is to be presented."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from replastic import methods
from replastic.errors import UnknownNameError
from replastic.training import Protocol


def every_method(*also: str, **instead: str) -> tuple[str, ...]:
    """Specs of all registered methods, with `instead` of the name alone where given, and then `also`."""
    return (*(instead.get(name, name) for name in methods.names()), *also)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A protocol with the methods, by spec, and the number of seeds that answer one question."""

    protocol: Protocol
    methods: tuple[str, ...]
    seeds: int
    help: str
    """What it shows and what it costs."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec:
    """One experiment. The first preset is the one that runs when none is asked for."""

    name: str
    presets: Mapping[str, Preset]
    summary: Mapping[str, Any]
    """How to present its runs, see `RunInfo.summary`."""

    def preset_name(self, name: str | None) -> str:
        """`name` itself, or the first preset's if it is None.

        Raises:
            UnknownNameError: No such preset; near misses are offered.
        """
        if name is None:
            return next(iter(self.presets))
        if name not in self.presets:
            raise UnknownNameError(f"preset of {self.name}", name, self.presets)
        return name
