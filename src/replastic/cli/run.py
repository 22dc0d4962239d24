"""Run a benchmark: methods times seeds, in parallel, resumable; ends with a table and a page to look at."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass, replace
from typing import Annotated, Any

import tyro

from replastic import benchmarks, report
from replastic.benchmarks import BenchmarkSpec, Plan, Preset
from replastic.cli._arguments import Parser, parse
from replastic.cli._progress import Watch
from replastic.errors import ReplasticError, UserError
from replastic.registry import load_plugin
from replastic.training import Protocol

EXAMPLES = """\
examples:
  replastic run digits_random_labels                                 the demo: four methods, three seeds
  replastic run digits_random_labels --preset full --out runs/full   every method and control
  replastic run digits_random_labels --methods base fire fire:scale=preserve --seeds 3,7
  replastic run digits_random_labels --methods base mine --plugin my_method.py --tasks 10 --learning-rate 3e-4

The same command goes on where it was stopped (Ctrl-C, kill, power cut) and ends in identical numbers; finished runs
are skipped, so that methods and seeds can be added to a folder at any time."""


@dataclass(kw_only=True)
class Options:
    """What to run, and where."""

    preset: str = ""
    """Settings, methods and seeds that answer one question; the first of the list above if left out."""
    methods: tuple[str, ...] = ()
    """Methods instead of the preset's: names (see `replastic list methods`), or name:option=value,option=value."""
    seeds: str = ""
    """How many seeds (5 means 0 to 4) or which (3,7; one alone as 3,); the preset's if left out."""
    out: str = ""
    """Folder for the runs and the report; runs/BENCHMARK-PRESET if left out."""
    jobs: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Runs at a time, each in a process of its own with one thread; no effect on the numbers."""
    plugin: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A Python file that registers something of your own."""
    recipe: str = ""
    """Which weights boundary methods rewrite (see `replastic list recipes`); the preset's if left out."""
    device: str = "cpu"
    """Where to train, such as cpu or cuda:0."""
    report: bool = True
    """Write report.html and print the final table."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of text."""


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, run the experiment, print the table."""
    args = list(arguments)
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0
    spec, preset_name = _benchmark(args)
    preset = spec.presets[preset_name]
    options, protocol = _parse(spec, preset, args[1:])
    if "--methods" in args and not options.methods:
        raise UserError("--methods needs the names of methods after it (see `replastic list methods`)")
    if options.jobs < 1:
        raise UserError(f"--jobs must be 1 or more, got {options.jobs}")
    out = options.out or f"runs/{spec.name}-{preset_name}"
    planned = benchmarks.plan(
        spec,
        protocol,
        options.methods or preset.methods,
        _seeds(options.seeds) if options.seeds else range(preset.seeds),
        out,
        device=options.device,
        command=shlex.join(["replastic", "run", *args]),
    )
    failures = _run(planned, options, spec)
    return _finish(planned, options, out, failures)


def _benchmark(args: list[str]) -> tuple[BenchmarkSpec, str]:
    """The benchmark and the name of its preset; plug-ins are loaded on the way, as either may come from one."""
    if args[0].startswith("-"):
        raise UserError(f"name the benchmark first: replastic run BENCHMARK [OPTIONS], got {args[0]!r}")
    early = Parser("replastic run", add_help=False, allow_abbrev=False)
    early.add_argument("--plugin", action="append", default=[])
    early.add_argument("--preset")
    known, _ = early.parse_known_args(args[1:])
    for plugin in known.plugin:
        load_plugin(plugin)
    spec = benchmarks.get(args[0])()
    return spec, spec.preset_name(known.preset)


def _parse(spec: BenchmarkSpec, preset: Preset, args: list[str]) -> tuple[Options, Protocol]:
    """Options, and the preset's protocol with the settings that were given as flags."""
    protocol = preset.protocol
    parts = {"stream": protocol.stream, "network": protocol.network, "trainer": protocol.trainer}
    flat = tyro.conf.arg(name="")
    kind: Any = make_dataclass(
        "Options",
        [(name, Annotated[type(part), flat], field(default=part)) for name, part in parts.items()],
        bases=(Options,),
        kw_only=True,
    )
    options = parse(kind, args=args, prog=f"replastic run {spec.name}", description=_description(spec))
    chosen = {name: getattr(options, name) for name in parts}
    return options, replace(protocol, recipe=options.recipe or protocol.recipe, **chosen)


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        seeds = []
    if not seeds or min(seeds) < 0 or (seeds == [0] and "," not in text):
        raise UserError(f"--seeds must be a number of seeds (5) or a list (3,7), got {text!r}")
    return seeds if "," in text else list(range(seeds[0]))


def _run(planned: Plan, options: Options, spec: BenchmarkSpec) -> dict[str, str]:
    watch = Watch(planned, workers=options.jobs, unit=spec.summary["phase_label"])
    try:
        with watch:
            return benchmarks.run(planned, workers=options.jobs, plugins=options.plugin, listener=watch)
    except KeyboardInterrupt:
        print(f"\nstopped; the same command goes on from here: {planned.jobs[0].command}", file=sys.stderr)
        raise


def _finish(planned: Plan, options: Options, out: str, failures: dict[str, str]) -> int:
    """Report what came out; the exit code is 1 if a run failed."""
    for name, problem in failures.items():
        print(f"replastic: {name} failed: {problem}", file=sys.stderr)
    done = [job for job in planned.jobs if job.directory.done]
    page = None
    if options.report and done:
        try:
            page = report.build(out)
            if not options.json:
                print(f"\n{report.text_table(out)}\n\nlook at it: {page}")
        except ReplasticError as error:
            print(f"replastic: the runs are done, the report is not: {error}", file=sys.stderr)
            return 1
    if options.json:
        runs = [{"method": j.method, "seed": j.seed, "path": str(j.directory.path)} for j in done]
        print(json.dumps({"out": out, "finished": runs, "failed": failures, "report": page and str(page)}, indent=2))
    return 1 if failures else 0


def _overview() -> str:
    lines = [f"  {name:<22} {benchmarks.entry(name).summary}" for name in benchmarks.names()]
    return "\n".join(
        [
            f"usage: replastic run BENCHMARK [OPTIONS]\n\n{__doc__}\n",
            "benchmarks:",
            *lines,
            "\n`replastic run BENCHMARK --help` lists its presets and every setting.\n",
            EXAMPLES,
        ]
    )


def _description(spec: BenchmarkSpec) -> str:
    presets = [
        f"  {name:<8} {preset.help} ({len(preset.methods)} methods, {preset.seeds} seeds)"
        for name, preset in spec.presets.items()
    ]
    return "\n".join([benchmarks.entry(spec.name).summary, "", "presets:", *presets, "", EXAMPLES])
