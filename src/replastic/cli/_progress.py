"""Progress of `replastic run` and `replastic sweep`: a bar on a terminal, elsewhere a line for each finished run."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from replastic.experiments import Listener, Plan
from replastic.text import duration


class Watch(Listener):
    """Prints the plan and follows the runs, on standard error. When they are stopped, it prints how to go on."""

    def __init__(self, planned: Plan, *, workers: int, unit: str) -> None:
        super().__init__(progress=self._progress, ended=self._ended, noted=self._say)
        self.terminal = sys.stderr.isatty()
        self.reached: dict[str, float] = {}
        self.runs_ended = 0
        self.began = time.perf_counter()
        self.command = planned.jobs[0].command
        jobs = (*planned.shared, *planned.todo)
        self._say(in_words(planned, workers))
        self.bar = tqdm(
            total=sum(job.phases for job in jobs),
            disable=not self.terminal or not jobs,
            bar_format="{percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} " + unit + "s [{elapsed}<{remaining}{postfix}]",
            dynamic_ncols=True,
        )
        self.phases = {job.name: job.phases for job in jobs}

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.bar.close()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._say(f"\nstopped; the same command goes on from here: {self.command}")

    def _progress(self, name: str, phases: float) -> None:
        self.bar.update(phases - self.reached.get(name, 0))
        self.reached[name] = phases

    def _ended(self, name: str, problem: str) -> None:
        self._progress(name, self.phases[name])
        self.runs_ended += 1
        what = "failed" if problem else "done"
        if self.terminal:
            self.bar.set_postfix_str(f"{what}: {name}")
        else:
            self._say(
                f"[{self.runs_ended}/{len(self.phases)}] {what}: {name} ({time.perf_counter() - self.began:.0f} s)"
            )

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)


def in_words(planned: Plan, workers: int) -> str:
    """The number of runs, how many of them are left, and how long these will take."""
    methods = dict.fromkeys(job.method for job in planned.jobs)
    seeds = dict.fromkeys(job.seed for job in planned.jobs)
    first, todo = planned.jobs[0], planned.todo
    protocol = first.protocol
    lines = [
        f"{first.benchmark}: {len(planned.jobs)} runs ({len(methods)} methods x {len(seeds)} seeds) in {first.folder}",
        f"network: {protocol.task.in_words()}, recipe {protocol.recipe}",
        f"methods: {', '.join(methods)}",
    ]
    short = protocol.task.shortfall(protocol.task.open())
    if short:
        lines.append(f"note: {short}")
    if len(todo) < len(planned.jobs):
        lines.append(f"{len(planned.jobs) - len(todo)} finished before, {len(todo)} to do")
    expected = planned.expected(workers)
    if expected is not None:
        jobs = "1 job" if workers == 1 else f"{workers} jobs"
        lines.append(f"expected: about {duration(expected.seconds)} with {jobs} at a time, {expected.by}")
    return "\n".join(lines)
