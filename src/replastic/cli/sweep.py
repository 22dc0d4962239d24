"""Search a method's options on held-out data with Ray Tune, resumable, on one machine or a cluster."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from replastic import benchmarks, experiments
from replastic.benchmarks import BenchmarkSpec
from replastic.cli._arguments import Parser, job_count, seed_list
from replastic.cli._progress import Watch
from replastic.cli._protocol import ProtocolOptions, choose, folder, presented, read
from replastic.errors import UserError
from replastic.experiments import Plan
from replastic.experiments.cluster import ray_crew
from replastic.experiments.sweep import (
    Search,
    as_in,
    check_held_out,
    parse_values,
    search_spaces,
    search_values,
    searches,
)
from replastic.extras import require
from replastic.records import metric_name, write_text
from replastic.text import columns

EXAMPLES = """\
examples:
  replastic sweep digits_warm_start --methods interpolation dash                     each over its own values
  replastic sweep digits_warm_start --methods interpolation --set interpolation.strength=0.7,0.8,0.9 --seeds 3
  replastic sweep vision_warm_start --preset small --methods dash:alpha=0.3 --jobs 2  alpha stays as it is
  replastic sweep vision_warm_start --preset paper --methods parseval --device cuda --address auto --out /shared/out

Every combination of a method's options is a run per seed, in the same folders as those of `replastic run`, so that
`replastic report` and `replastic compare` work on them. The best is chosen by the mean score on held-out data; test
scores play no part. The same command goes on where it was stopped. best.json has the outcome, and the command that
runs the chosen options is printed. On a cluster (--address) --out must lie on a disk that all machines share."""


@dataclass(kw_only=True)
class Options(ProtocolOptions):
    """What to search, and where."""

    methods: tuple[str, ...] = ()
    """Methods by name, or name:option=value to keep an option as it is; all that are searched by default are tried.
    A name alone keeps what the preset sets for that method and is not searched, such as targets."""
    set: tuple[str, ...] = ()
    """Values to try instead, as method.option=value,value; also for options that are not searched by default."""
    seeds: str = ""
    """How many seeds (5 means 0 to 4) or which (3,7; one alone as 3,); the preset's if left out."""
    out: str = ""
    """Folder for the runs and best.json; runs/BENCHMARK-PRESET-sweep if left out."""
    jobs: int | None = None
    """Runs at a time, each in a process of its own with one thread; no effect on the numbers. If left out, one for each
    core, or one on a GPU."""
    address: str = ""
    """Join a running Ray cluster, auto to find it; Ray is started on this machine if left out."""
    plugin: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A Python file that registers something of your own."""
    device: str = "cpu"
    """cpu, or cuda: the GPUs of this machine shared among the jobs; on a cluster one for each."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object instead of text."""


def main(arguments: Sequence[str]) -> int:
    """Parse the arguments, carry out the search, say what won."""
    args = list(arguments)
    if not args or args[0] in ("-h", "--help"):
        print(_overview())
        return 0
    chosen = choose(args, "replastic sweep")
    spec = chosen.spec
    description = f"{__doc__}\n\n{EXAMPLES}"
    options, protocol = read(Options, chosen, args[1:], prog=f"replastic sweep {spec.name}", description=description)
    if not options.methods:
        raise UserError("--methods needs the names of the methods to search (see `replastic list methods`)")
    jobs = job_count(options.jobs, options.device)
    values = parse_values(options.set)
    spaces = search_spaces([as_in(chosen.preset.methods, text, values) for text in options.methods], values)
    seeds = seed_list(options.seeds) if options.seeds else list(range(chosen.preset.seeds))
    require("ray.tune", "sweep", "a sweep")
    check_held_out(spec, protocol, seeds[0])
    out = options.out or f"{folder(chosen, options, protocol)}-sweep"
    planned = experiments.plan(
        presented(spec, options),
        protocol,
        [text for space in spaces.values() for text in space],
        seeds,
        out,
        device=options.device,
        command=shlex.join(["replastic", "sweep", *args]),
    )
    failures = _run(planned, jobs, options, spec)
    return _finish(planned, searches(planned, spaces), failures, options, _winner_command(args))


def _run(planned: Plan, jobs: int, options: Options, spec: BenchmarkSpec) -> dict[str, str]:
    watch = Watch(planned, workers=jobs, unit=planned.jobs[0].summary["phase_label"])
    if not planned.todo:
        return {}
    with (
        watch,
        ray_crew(
            jobs=jobs,
            folder=planned.jobs[0].folder,
            address=options.address,
            device=options.device,
            plugins=options.plugin,
        ) as crew,
    ):
        return experiments.run(planned, workers=jobs, listener=watch, crew=crew)


def _finish(
    planned: Plan, found: Sequence[Search], failures: dict[str, str], options: Options, command: Sequence[str]
) -> int:
    """Write best.json and say what it holds; the exit code is 1 if a run failed."""
    for name, problem in failures.items():
        print(f"replastic: {name} failed: {problem}", file=sys.stderr)
    best = [search.best.spec for search in found if search.best is not None]
    again = shlex.join(["replastic", "run", *command, "--methods", "base", *best]) if best else ""
    job = planned.jobs[0]
    outcome = {
        "benchmark": job.benchmark,
        "chosen_by": f"mean {metric_name(job.summary['score'])} on held-out data at the end",
        "seeds": list(dict.fromkeys(job.seed for job in planned.jobs)),
        "methods": {search.method: search.to_dict() for search in found},
        "failed": failures,
        "command": again,
    }
    file = job.folder / "best.json"
    write_text(file, json.dumps(outcome, indent=2) + "\n")
    if options.json:
        print(json.dumps({"out": str(job.folder), **outcome}, indent=2))
    else:
        print(_in_words(found, file, again))
    return 1 if failures else 0


def _in_words(found: Sequence[Search], file: Path, again: str) -> str:
    lines = []
    for search in found:
        rows = [["method", "held-out", "lowest seed", "highest seed", "seeds", ""]]
        for candidate in search.candidates:
            scores = candidate.scores.values()
            numbers = [candidate.mean, min(scores), max(scores)] if scores else []
            shown = [f"{number:.4f}" for number in numbers] or ["-"] * 3
            mark = "best" if candidate is search.best else ""
            rows.append([candidate.spec, *shown, f"{len(scores)} of {candidate.wanted}", mark])
        lines += ["", *columns(rows, numbers=True)]
    lines += ["", f"chosen by the mean score on held-out data: {file}"]
    return "\n".join([*lines, f"run it: {again}"] if again else lines)


def _winner_command(args: Sequence[str]) -> list[str]:
    """Benchmark and settings as they were typed, without what belongs to the sweep alone."""
    own = Parser("replastic sweep", add_help=False, allow_abbrev=False)
    for name in ("methods", "set"):
        own.add_argument(f"--{name}", nargs="*")
    for name in ("seeds", "out", "jobs", "address"):
        own.add_argument(f"--{name}")
    own.add_argument("--json", action="store_true")
    return own.parse_known_args(list(args))[1]


def _overview() -> str:
    names = benchmarks.names()
    searched = [f"  {name:<16} {values}" for name, values in search_values().items()]
    return "\n".join(
        [
            f"usage: replastic sweep BENCHMARK --methods METHOD ... [OPTIONS]\n\n{__doc__}\n",
            f"benchmarks: {', '.join(names)}\n",
            "what is searched by default:",
            *searched,
            "\n`replastic sweep BENCHMARK --help` lists every setting.\n",
            EXAMPLES,
        ]
    )
