"""The contents of a benchmark file: a protocol, its presets and how the result is presented."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from replastic import methods
from replastic.errors import UnknownNameError
from replastic.options import name_of
from replastic.registry import Registry
from replastic.training import Protocol

INTERPOLATION = "interpolation:strength=0.8"
"""As tuned in the FIRE paper for every vision setting."""


SPECIAL: frozenset[methods.Need] = frozenset({"checkpoints", "replay"})
"""Needs that few experiments can meet."""


def every_method(*also: str, **instead: str) -> tuple[str, ...]:
    """Specs of all registered methods, with `instead` of the name alone where given, and then `also`.

    Methods with `SPECIAL` needs are among them where `instead` names them.
    """
    common = (name for name in methods.names() if name in instead or not methods.get(name).needs & SPECIAL)
    return (*(instead.get(name, name) for name in common), *also)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A protocol with the methods, by spec, and the number of seeds that answer one question."""

    protocol: Protocol
    methods: tuple[str, ...]
    seeds: int
    help: str
    """The help line: what it shows and what it costs."""
    folder: str = ""
    """Preset with the same protocol in whose folder it runs by default, so that what is there need not run again."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkSpec:
    """One experiment. The first preset is the one that runs when none is asked for."""

    name: str
    presets: Mapping[str, Preset]
    summary: Mapping[str, Any]
    """How to present its runs, where the learner's own words do not do; see `shown` and `RunInfo.summary`."""
    others: Mapping[str, Mapping[str, Preset]] = field(default_factory=dict)
    """Presets on other data sets, by the name of the data set."""

    def on(self, data: str) -> BenchmarkSpec:
        """The same experiment on other data, or on another part of its own.

        Args:
            data: Spec of the data. A data set of `others` brings its own presets, any other runs with the settings of
                `presets`; fields that are not given stay as the preset has them if it names the same data set. Empty
            changes nothing.
        """
        if not data:
            return self
        presets = self.others.get(name_of(data), self.presets)
        on_it = {name: replace(preset, protocol=preset.protocol.on(data)) for name, preset in presets.items()}
        return replace(self, presets=on_it)

    def shown(self, protocol: Protocol) -> dict[str, Any]:
        """How to present its runs: what the learner says, unless the benchmark puts it in words of its own."""
        return {"event": "phase_end", "phase_label": "phase", **protocol.task.summary(), **self.summary}

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


REGISTRY: Registry[Callable[[], BenchmarkSpec]] = Registry("benchmark", "replastic.benchmarks")
register, names, get, entry = REGISTRY.register, REGISTRY.names, REGISTRY.get, REGISTRY.entry
