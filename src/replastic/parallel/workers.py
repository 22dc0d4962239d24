"""Jobs in parallel processes. A job that fails or dies is reported by name, and the others go on."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from threading import Thread
from typing import Any

import torch

from replastic.errors import ReplasticError
from replastic.memory import give_back_freed_memory, keep_freed_memory
from replastic.parallel.signals import Terminated, termination, without_interrupts
from replastic.registry import load_plugin

GRACE = 5.0
"""Seconds that a process gets to remove what is unfinished before it is killed."""
Report = Callable[[float], None]
"""Function by which a job reports its progress, in units of its own."""
Function = Callable[[Any, Report], None]


def work(
    jobs: Mapping[str, Any],
    function: Function,
    *,
    workers: int,
    plugins: Iterable[str] = (),
    gpus: Sequence[str] = (),
    progress: Callable[[str, float], None] = lambda name, value: None,
    ended: Callable[[str, str], None] = lambda name, problem: None,
) -> dict[str, str]:
    """Call `function(job, report)` for every job, each in one of `workers` processes with one torch thread.

    A process keeps the memory it frees for its next updates (`keep_freed_memory`), and gives it back after each job.

    Ctrl-C, SIGTERM or an error ends the processes within `GRACE` seconds, so a job must be safe to kill.

    Args:
        jobs: The jobs by name; they are started in this order.
        function: A function of a module. It is pickled, and so are the jobs.
        workers: Largest number of processes at a time.
        plugins: Plug-in files that each process loads first.
        gpus: GPUs to share evenly, by `gpu_names`. Each process sees one of them, as ``cuda``. With fewer than two,
            every process sees the GPUs that this one sees.
        progress: Called with the name of a job and the progress it reported.
        ended: Called with the name of a job that ended and its problem, "" if there was none.

    Returns:
        The problem of each job that failed, by name.
    """
    waiting = list(jobs)
    crew: list[_Worker] = []
    failures: dict[str, str] = {}
    try:
        while waiting or any(worker.job for worker in crew):
            crew = [worker for worker in crew if worker.alive]
            while waiting and len(crew) < workers and not any(not worker.job for worker in crew):
                slot = min(set(range(workers)) - {worker.slot for worker in crew})
                crew.append(_Worker(function, tuple(plugins), slot, gpus[slot % len(gpus)] if len(gpus) > 1 else ""))
                crew[-1].give(waiting[0], jobs[waiting.pop(0)])
            for worker in crew:
                if waiting and not worker.job:
                    worker.give(waiting[0], jobs[waiting.pop(0)])
            for worker in _ready(crew):
                name = worker.job
                kind, value = worker.receive()
                if kind == "progress":
                    progress(name, value)
                else:
                    if value:
                        failures[name] = value
                    ended(name, value)
    finally:
        for worker in crew:
            worker.ask_to_end()
        for worker in crew:
            worker.end()
    return failures


class _Worker:
    """A process and its current job."""

    def __init__(self, function: Function, plugins: tuple[str, ...], slot: int, gpu: str) -> None:
        context = get_context("spawn")
        self.slot = slot
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_main, args=(theirs, function, plugins, gpu), daemon=True)
        with without_interrupts():
            self.process.start()
        theirs.close()
        self.job = ""
        self.alive = True

    def give(self, name: str, job: Any) -> None:
        """Start a job."""
        self.job = name
        with suppress(BrokenPipeError):  # It died while starting: `receive` will say so.
            self.connection.send(job)

    def receive(self) -> tuple[str, Any]:
        """The next message: ("progress", value), or ("ended", problem or "")."""
        try:
            kind, value = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            self.alive = False
            kind, value = "ended", _cause_of_death(self.process.exitcode or 0)
        if kind == "ended":
            self.job = ""
        return kind, value

    def ask_to_end(self) -> None:
        """Let the process remove what is unfinished, and end."""
        self.process.terminate()

    def end(self) -> None:
        """Wait until the process has ended, which was asked to; kill it if that takes too long."""
        self.process.join(GRACE)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()
        self.connection.close()


def gpu_names() -> tuple[str, ...]:
    """The GPUs that this process may use, each as the environment variable CUDA_VISIBLE_DEVICES names it."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return tuple(named.split(",")[:count]) if named else tuple(map(str, range(count)))


def _ready(crew: Iterable[_Worker]) -> list[_Worker]:
    by_connection = {worker.connection: worker for worker in crew if worker.job}
    return [by_connection[c] for c in wait(list(by_connection)) if isinstance(c, Connection)]


def _cause_of_death(exit_code: int) -> str:
    if exit_code >= 0:
        return f"its process ended with exit code {exit_code}"
    name = signal.Signals(-exit_code).name
    hint = ", perhaps for lack of memory: try fewer --jobs" if name == "SIGKILL" else ""
    return f"its process was killed ({name}{hint})"


def _main(connection: Connection, function: Function, plugins: tuple[str, ...], gpu: str) -> None:
    """Body of a worker: one job after another until the parent closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with termination():
            _work_on(connection, function, plugins, gpu)
    except Terminated:
        sys.exit(128 + signal.SIGTERM)


def _work_on(connection: Connection, function: Function, plugins: tuple[str, ...], gpu: str) -> None:
    if gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # Before the first use of CUDA, which is when it is read.
    torch.set_num_threads(1)
    keep_freed_memory()
    Thread(target=_die_with_parent, daemon=True).start()
    broken = ""
    try:
        for plugin in plugins:
            load_plugin(plugin)
    except ReplasticError as error:
        broken = str(error)
    while True:
        try:
            job = connection.recv()
            problem = broken or attempt(function, job, lambda value: connection.send(("progress", value)))
            give_back_freed_memory()
            connection.send(("ended", problem))
        except (EOFError, BrokenPipeError):
            return  # The parent is gone.


def _die_with_parent() -> None:
    """End this process as soon as its parent has ended: a new parent may soon write the same files."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def attempt(function: Function, job: Any, report: Report) -> str:
    """Call `function(job, report)`, and return the problem in words; "" if there was none."""
    try:
        function(job, report)
    except BrokenPipeError:
        raise
    except ReplasticError as error:
        return str(error)
    except (Exception, SystemExit):
        return f"an unexpected error, please report it:\n{traceback.format_exc()}"
    return ""
