"""The training that a command line asks for: a benchmark's preset, its data, and every setting a flag."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Annotated, Any, TypeVar

import tyro

from replastic import benchmarks, data, metrics, triggers
from replastic.benchmarks import BenchmarkSpec, Preset
from replastic.cli._arguments import Parser, parse
from replastic.cli._fields import Flag, flags_of, with_flags
from replastic.errors import UserError
from replastic.experiments.runs import LONGEST, folder_name
from replastic.options import name_of
from replastic.registry import load_plugin
from replastic.report.experiment import flatten
from replastic.training import Protocol

P = TypeVar("P")

EARLY = ("data", "network")
"""Settings that decide which others there are: read first, and given by name."""


@dataclass(kw_only=True)
class ProtocolOptions:
    """The training to do."""

    preset: str = ""
    """Settings, methods and seeds that answer one question; the first of the list above if left out."""
    data: str = ""
    """Data set (see `replastic list data`), or name:field=value,field=value; the preset's if left out."""
    network: str = ""
    """Network (see `replastic list networks`); the preset's if left out. Its sizes are settings of their own."""
    recipe: str = ""
    """Which weights boundary methods rewrite (see `replastic list recipes`); the preset's if left out."""
    metrics: tuple[str, ...] = ()
    """Measures at the end of every phase (see `replastic list metrics`), in place of the preset's."""
    boundary_metrics: tuple[str, ...] = ()
    """Measures right after every boundary, in place of the preset's."""
    start_metrics: tuple[str, ...] = ()
    """Measures before the first update of every phase, the first too, in place of the preset's."""
    start_samples: int = 0
    """Samples on which the measures before the first update are taken; 0: as the preset has it."""
    start_every: int = 0
    """Phases from one measure before the first update to the next; 0: as the preset has it."""
    trigger: str = ""
    """Decides when methods act, such as plateau:patience=3 (see `replastic list triggers`), in place of the starts of
    the phases; the preset's if left out."""
    from_start: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Methods are on in the first phase too, where the preset has them begin later and share what comes before."""


@dataclass(frozen=True)
class Chosen:
    """A benchmark on the data that was asked for, and which of its presets."""

    spec: BenchmarkSpec
    preset_name: str
    network: str

    @property
    def preset(self) -> Preset:
        """The preset itself."""
        return self.spec.presets[self.preset_name]

    @property
    def protocol(self) -> Protocol:
        """The preset's protocol with the network that was asked for, and the recipe that goes with it."""
        protocol = self.preset.protocol
        return protocol.with_network(self.network) if self.network else protocol


def choose(args: Sequence[str], prog: str) -> Chosen:
    """Read what decides which settings there are; plug-ins are loaded on the way, as any part may come from one.

    Raises:
        UserError: No benchmark is named first, or a name is unknown.
    """
    if not args or args[0].startswith("-"):
        given = f", got {args[0]!r}" if args else ""
        raise UserError(f"name the benchmark first: {prog} BENCHMARK [OPTIONS]{given}")
    early = Parser(prog, add_help=False, allow_abbrev=False)
    early.add_argument("--plugin", action="append", default=[])
    for name in ("preset", "data", "network"):
        early.add_argument(f"--{name}")
    known, _ = early.parse_known_args(list(args[1:]))
    for plugin in known.plugin:
        load_plugin(plugin)
    spec = benchmarks.get(args[0])().on(known.data or "")
    return Chosen(spec, spec.preset_name(known.preset), known.network or "")


def read(
    kind: type[ProtocolOptions], chosen: Chosen, args: Sequence[str], *, prog: str, description: str
) -> tuple[Any, Protocol]:
    """Options of class `kind`, and the protocol with the settings that were given as flags.

    Raises:
        UserError: The arguments cannot be read, or a setting is not allowed.
    """
    protocol = chosen.protocol
    flags = [flag for part in (protocol.task, protocol.trainer) for flag in _flags(part)]
    options: Any = parse(with_flags(kind, flags), args=args, prog=prog, description=description)
    protocol = replace(
        protocol,
        task=_with(protocol.task, options),
        trainer=_with(protocol.trainer, options),
        recipe=options.recipe or protocol.recipe,
        trigger=triggers.spec_of(triggers.from_spec(options.trigger)) if options.trigger else protocol.trigger,
    )
    protocol = _measured(protocol, options, args)
    if options.from_start and not protocol.methods_from:
        raise UserError("--from-start has no effect: the methods of this preset are on from the start; leave it out")
    return options, replace(protocol, methods_from=0) if options.from_start else protocol


def presented(spec: BenchmarkSpec, options: ProtocolOptions) -> BenchmarkSpec:
    """The benchmark as its results are to be shown: those with methods on from the start say so wherever they are."""
    if not options.from_start:
        return spec
    label = f"{spec.summary['score_label']} (methods on from the start)"
    return replace(spec, summary={**spec.summary, "score_label": label})


def folder(chosen: Chosen, options: ProtocolOptions, protocol: Protocol) -> str:
    """Where the runs go if nobody says: a name for each protocol, so that other settings mean another folder.

    Raises:
        UserError: The name would be too long.
    """
    name, _, fields = (data.identity(options.data) if options.data else "").partition(":")
    preset = chosen.protocol
    parts = [chosen.spec.name]
    if name or chosen.spec.others:
        parts.append(name or name_of(preset.config()["data"]))
    parts.append(chosen.preset.folder or chosen.preset_name)
    parts += [part for part in fields.split(",") if part]
    parts += [f"network={options.network}"] if options.network else []
    parts += ["from-start"] if options.from_start else []
    before, now = (flatten({**p.config(), "methods_from": 0}) for p in (preset, protocol))
    parts += [f"{key.rpartition('.')[2]}={value}" for key, value in now.items() if before.get(key) != value]
    whole = "-".join(folder_name(part) for part in parts)
    if len(whole) > LONGEST:
        raise UserError("so many settings make no name for a folder; give --out")
    return f"runs/{whole}"


def _flags(part: Any) -> Iterator[Flag]:
    """A flag for each setting of a part of the protocol, and of the parts it has itself."""
    inner = {f.name: getattr(part, f.name) for f in fields(part) if is_dataclass(getattr(part, f.name))}
    yield from (flag for flag in flags_of(part) if flag[0] not in (*inner, *EARLY))
    for value in inner.values():
        yield from _flags(value)


def _with(part: P, options: Any) -> P:
    """The part with the values that its flags were given."""
    values = {}
    for f in fields(part):  # type: ignore[arg-type]
        value = getattr(part, f.name)
        if is_dataclass(value):
            values[f.name] = _with(value, options)
        elif f.name not in EARLY:
            values[f.name] = getattr(options, f.name)
    return replace(part, **values)  # type: ignore[type-var]


def _measured(protocol: Protocol, options: ProtocolOptions, args: Sequence[str]) -> Protocol:
    """The protocol with the measures that were asked for in place of its own.

    Raises:
        UserError: No names after the flag, an unknown one, or a measure of change for the ends of phases.
    """
    measures: dict[str, Any] = {}
    for name in ("start_samples", "start_every"):
        count = getattr(options, name)
        if count < 0:
            raise UserError(f"--{name.replace('_', '-')} must be at least 0 (as the preset has it), got {count}")
        if count:
            measures[name] = count
    for name in ("metrics", "boundary_metrics", "start_metrics"):
        flag, asked = f"--{name.replace('_', '-')}", dict.fromkeys(getattr(options, name))
        if flag in args and not asked:
            raise UserError(f"{flag} needs the names of measures after it (see `replastic list metrics`)")
        changes = [measure for measure in asked if metrics.from_spec(measure).on == "change"]
        if changes and name != "boundary_metrics":
            raise UserError(f"{flag}: {changes[0]} compares two states of the weights; give it to --boundary-metrics")
        if asked:
            measures[name] = tuple(asked)
    return replace(protocol, **measures)
