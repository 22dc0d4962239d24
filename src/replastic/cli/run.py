"""Run a benchmark: methods times seeds, in parallel, resumable; ends with a table and a page to look at."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from replastic import report
from replastic.cli._experiment import Command, ExperimentOptions
from replastic.cli._progress import in_words
from replastic.errors import ReplasticError, UserError
from replastic.experiments import Plan, speed, stacked
from replastic.parallel import distributed

EXAMPLES = """\
examples:
  replastic run digits_random_labels                                 the demo: four methods, three seeds
  replastic run digits_random_labels --preset full --out runs/full   every method and control
  replastic run digits_random_labels --methods base fire fire:scale=preserve --seeds 3,7
  replastic run digits_random_labels --methods base mine --plugin my_method.py --tasks 10 --learning-rate 3e-4
  replastic run digits_random_labels --metrics dfi mine --plugin my_metric.py       these measures and no others
  replastic run vision_warm_start --estimate                         what would run, and for how long
  replastic run vision_warm_start --data cifar100                    another pair of data and network, as in the paper
  replastic run vision_warm_start --data images:source=photos --network vit_tiny
  replastic run vision_continual --preset paper --device cuda --speed auto
  torchrun --nproc-per-node 4 -m replastic run vision_continual --preset paper --device cuda

The same command goes on where it was stopped (Ctrl-C, kill, power cut) and ends in identical numbers; finished runs
are skipped, so that methods and seeds can be added to a folder at any time."""


@dataclass(kw_only=True)
class Options(ExperimentOptions):
    """The runs to make, and where."""

    speed: Literal["given", "auto"] = "given"
    """auto: a probe chooses precision, channels-last and compiled for a new folder; else they are as given."""
    stack: str = "never"
    """Train several runs of small networks as one, with results equal but for rounding: auto lets a probe decide
    whether it is faster here and how many at a time, a number says how many at most. Prints why a method stays out."""
    estimate: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Only print what is to be done and how long it will take."""
    record: Literal["", "gif", "mp4"] = ""
    """Film one evaluation episode of the agent at the end of every run that is trained: agent.gif or agent.mp4 in its
    folder."""
    report: bool = True
    """Write report.html and print the final table."""


class Run(Command):
    """`replastic run`: the methods of the preset or others, and a report."""

    name, examples, kind = "run", EXAMPLES, Options

    def _methods(self) -> Sequence[str]:
        if "--methods" in self.args and not self.options.methods:
            raise UserError("--methods needs the names of methods after it (see `replastic list methods`)")
        return self.options.methods or self.chosen.preset.methods

    def _extras(self) -> Mapping[str, str]:
        reports = self.options.report and not self.options.estimate
        return {**({"report": "the report (--no-report leaves it out)"} if reports else {}), **super()._extras()}

    def _plan(self, device: str) -> Plan:
        if self.options.record:
            self._check_films()
        planned = self._probed(device)
        film = f"agent.{self.options.record}" if self.options.record else ""
        return replace(planned, jobs=tuple(replace(job, film=film) for job in planned.jobs))

    def _check_films(self) -> None:
        """Refuse a film of what cannot be filmed, before anything is trained."""
        task = self.protocol.task
        if not task.films:
            raise UserError(f"--record films agents, and {self.protocol.task.name} is none: leave it out")
        task.check_films(f"agent.{self.options.record}")

    def _probed(self, device: str) -> Plan:
        if self.options.speed == "given":
            return super()._plan(device)
        given, preset = self.protocol.trainer, self.chosen.protocol.trainer
        if distributed.launched():
            raise UserError("--speed auto is for one process; under torchrun give --precision and the like")
        if any(getattr(given, name) != getattr(preset, name) for name in speed.FIELDS):
            raise UserError("--speed auto chooses precision, channels-last and compiled; leave one or the other out")
        self.protocol, choice = speed.settle(self.protocol, Path(self.out), device)
        return replace(super()._plan(device), probe=choice.record() if choice else None)

    def _carry_out(self, planned: Plan) -> int:
        if not self.options.estimate:
            return super()._carry_out(self._stacked(planned))
        if distributed.rank() == 0:
            print(self._estimate(planned) if self.options.json else in_words(planned, self.jobs))
        return 0

    def _stacked(self, planned: Plan) -> Plan:
        """The plan with the number of runs that are trained as one."""
        stacking = stacked.settle(planned.todo, self.options.stack, self.jobs)
        if stacking.asked and distributed.rank() == 0:
            print(stacking.in_words(), file=sys.stderr)
        return replace(planned, stacking=stacking)

    def _conclude(self, planned: Plan, failures: Mapping[str, str]) -> bool:
        done = [job for job in planned.jobs if job.directory.done]
        page, report_error = None, None
        if self.options.report and done:
            try:
                table = report.final_table(report.load(self.out))
                page = report.write(table, self.out)
                if not self.options.json:
                    print(f"\n{report.text_table(table)}\n\nlook at it: {page}")
            except ReplasticError as error:
                report_error = str(error)
                print(f"replastic: the runs are done, the report is not: {report_error}", file=sys.stderr)
        if self.options.json:
            runs = [{"method": j.method, "seed": j.seed, "path": str(j.directory.path)} for j in done]
            answer = {"out": self.out, "finished": runs, "failed": failures, "report": page and str(page)}
            print(json.dumps({**answer, "report_error": report_error}, indent=2))
        return report_error is None

    def _estimate(self, planned: Plan) -> str:
        expected = planned.expected(self.jobs)
        runs = {"runs": len(planned.jobs), "to_do": len(planned.todo), "jobs_at_a_time": self.jobs}
        cost = {"seconds": expected.seconds, "by": expected.by} if expected else None
        return json.dumps({"out": str(planned.jobs[0].folder), **runs, "expected": cost}, indent=2)


main = Run.main
