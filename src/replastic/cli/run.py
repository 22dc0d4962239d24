"""Run a benchmark: methods times seeds, in parallel, resumable; ends with a table and a page to look at."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from replastic import benchmarks, experiments, report
from replastic.benchmarks import BenchmarkSpec
from replastic.cli._arguments import job_count, seed_list
from replastic.cli._progress import Watch, in_words
from replastic.cli._protocol import Chosen, ProtocolOptions, choose, folder, presented, read
from replastic.errors import ReplasticError, UserError
from replastic.experiments import Plan
from replastic.experiments.speed import FIELDS as SPEED_FIELDS
from replastic.experiments.speed import settle
from replastic.parallel import distributed
from replastic.training import Protocol

EXAMPLES = """\
examples:
  replastic run digits_random_labels                                 the demo: four methods, three seeds
  replastic run digits_random_labels --preset full --out runs/full   every method and control
  replastic run digits_random_labels --methods base fire fire:scale=preserve --seeds 3,7
  replastic run digits_random_labels --methods base mine --plugin my_method.py --tasks 10 --learning-rate 3e-4
  replastic run vision_warm_start --estimate                         what would run, and for how long
  replastic run vision_warm_start --data cifar100                    another pair of data and network, as in the paper
  replastic run vision_warm_start --data images:source=photos --network vit_tiny
  replastic run vision_continual --preset paper --device cuda --speed auto
  torchrun --nproc-per-node 4 -m replastic run vision_continual --preset paper --device cuda

The same command goes on where it was stopped (Ctrl-C, kill, power cut) and ends in identical numbers; finished runs
are skipped, so that methods and seeds can be added to a folder at any time."""


@dataclass(kw_only=True)
class Options(ProtocolOptions):
    """What to run, and where."""

    methods: tuple[str, ...] = ()
    """Methods instead of the preset's: names (see `replastic list methods`), or name:option=value,option=value."""
    seeds: str = ""
    """How many seeds (5 means 0 to 4) or which (3,7; one alone as 3,); the preset's if left out."""
    out: str = ""
    """Folder for the runs and the report; runs/BENCHMARK-PRESET with the settings that are changed, if left out."""
    jobs: int | None = None
    """Runs at a time, each in a process of its own with one thread; no effect on the numbers. If left out, one for each
    core, or one on a GPU; under torchrun all processes share one run after another."""
    plugin: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """A Python file that registers something of your own."""
    device: str = "cpu"
    """Where to train, such as cpu or cuda:0; under torchrun cpu or cuda, for one GPU per process."""
    speed: Literal["given", "auto"] = "given"
    """auto: a probe chooses precision, channels-last and compiled for a new folder; else they are as given."""
    estimate: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Only print what is to be done and how long it will take."""
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
    chosen = choose(args, "replastic run")
    spec, preset = chosen.spec, chosen.preset
    description = _description(spec)
    options, protocol = read(Options, chosen, args[1:], prog=f"replastic run {spec.name}", description=description)
    if "--methods" in args and not options.methods:
        raise UserError("--methods needs the names of methods after it (see `replastic list methods`)")
    jobs = job_count(options.jobs, options.device)
    spec = presented(spec, options)
    out = options.out or folder(chosen, options, protocol)
    with distributed.processes(options.device) as device:
        probe = None
        if options.speed == "auto":
            protocol, probe = _settle(chosen, protocol, out, device)
        planned = experiments.plan(
            spec,
            protocol,
            options.methods or preset.methods,
            seed_list(options.seeds) if options.seeds else range(preset.seeds),
            out,
            device=torch.device(device).type if distributed.launched() else device,
            command=shlex.join(["replastic", "run", *args]),
        )
        if options.estimate:
            return _estimate(planned, jobs, json_wanted=options.json)
        failures = _run(replace(planned, probe=probe), jobs, options, spec)
        return _finish(planned, options, out, failures) if distributed.rank() == 0 else 0


def _settle(chosen: Chosen, protocol: Protocol, out: str, device: str) -> tuple[Protocol, Mapping[str, Any] | None]:
    """The protocol with the settings of speed that a probe, or the folder, gives."""
    if distributed.launched():
        raise UserError("--speed auto is for one process; under torchrun give --precision and the like")
    if any(getattr(protocol.trainer, name) != getattr(chosen.protocol.trainer, name) for name in SPEED_FIELDS):
        raise UserError("--speed auto chooses precision, channels-last and compiled itself; leave one or the other out")
    protocol, choice = settle(protocol, Path(out), device)
    return protocol, choice.record() if choice else None


def _estimate(planned: Plan, jobs: int, *, json_wanted: bool) -> int:
    """Print the plan instead of carrying it out."""
    if distributed.rank():
        return 0
    if not json_wanted:
        print(in_words(planned, jobs))
        return 0
    expected = planned.expected(jobs)
    runs = {"runs": len(planned.jobs), "to_do": len(planned.todo), "jobs_at_a_time": jobs}
    cost = {"seconds": expected.seconds, "by": expected.by} if expected else None
    print(json.dumps({"out": str(planned.jobs[0].folder), **runs, "expected": cost}, indent=2))
    return 0


def _run(planned: Plan, jobs: int, options: Options, spec: BenchmarkSpec) -> dict[str, str]:
    if distributed.rank():
        return experiments.run(planned, workers=1)
    watch = Watch(planned, workers=jobs, unit=planned.jobs[0].summary["phase_label"])
    with watch:
        return experiments.run(planned, workers=jobs, plugins=options.plugin, listener=watch)


def _finish(planned: Plan, options: Options, out: str, failures: dict[str, str]) -> int:
    """Report what came out; the exit code is 1 if a run or the report failed."""
    for name, problem in failures.items():
        print(f"replastic: {name} failed: {problem}", file=sys.stderr)
    done = [job for job in planned.jobs if job.directory.done]
    page, report_error = None, None
    if options.report and done:
        try:
            table = report.final_table(report.load(out))
            page = report.write(table, out)
            if not options.json:
                print(f"\n{report.text_table(table)}\n\nlook at it: {page}")
        except ReplasticError as error:
            report_error = str(error)
            print(f"replastic: the runs are done, the report is not: {report_error}", file=sys.stderr)
    if options.json:
        runs = [{"method": j.method, "seed": j.seed, "path": str(j.directory.path)} for j in done]
        answer = {"out": out, "finished": runs, "failed": failures, "report": page and str(page)}
        print(json.dumps({**answer, "report_error": report_error}, indent=2))
    return 1 if failures or report_error is not None else 0


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
    width = max(map(len, spec.presets))
    presets = [
        f"  {name:<{width}}  {preset.help} ({len(preset.methods)} methods, {preset.seeds} seeds)"
        for name, preset in spec.presets.items()
    ]
    return "\n".join([benchmarks.entry(spec.name).summary, "", "presets:", *presets, "", EXAMPLES])
