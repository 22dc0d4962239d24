"""Jobs as trials of Ray Tune, on this machine or on a cluster; what is done and what is not, the run folders say."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import torch

from replastic.errors import ReplasticError, UserError
from replastic.experiments.experiment import Crew, Listener, alone
from replastic.experiments.runs import Job, execute
from replastic.extras import require
from replastic.parallel.workers import attempt
from replastic.registry import load_plugin

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
}
"""Set in this process while Ray runs: no reports to its makers, no tables of its own, Ctrl-C stays ours."""
OBJECT_STORE = 100 * 2**20
"""Bytes of Ray's shared memory on this machine; nothing but the descriptions of jobs goes through it."""
PATIENCE = 60.0
"""Seconds that a trial waits for a run folder which the process of a killed sweep may still hold."""
ATTEMPTS = 3
"""To start Ray on this machine."""
PAUSE = 1.0
"""Least seconds between two reports of progress, each of which a trial waits for."""


@contextmanager
def ray_crew(
    *, jobs: int, folder: str | Path, address: str = "", device: str = "cpu", plugins: Sequence[str] = ()
) -> Iterator[Crew]:
    """A crew that works while the `with` block lasts: Ray is started, or a cluster joined, and left on the way out.

    Args:
        jobs: Most jobs at a time, each in a process of its own with one torch thread.
        folder: Of the experiment. Machines of a cluster must see it under the same path.
        address: Of a running cluster, ``auto`` to find it; empty starts Ray on this machine alone.
        device: ``cpu``, or ``cuda`` for the GPUs of this machine shared evenly among `jobs`; on a cluster each job
            gets one of its own.
        plugins: Plug-in files that each process loads first.

    Raises:
        MissingExtraError: Ray is not installed.
        UserError: Ray cannot be started, or the cluster is not there.
    """
    if device.partition(":")[0] == "cuda" and device != "cuda":
        raise UserError(f"--device must be cpu or cuda in a sweep, since Ray hands out the GPUs; got {device!r}")
    ray = require("ray", "sweep", "a sweep")
    tune = require("ray.tune", "sweep", "a sweep")
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    with ExitStack() as stack:
        stack.enter_context(_environment(ENVIRONMENT))
        scratch = Path(stack.enter_context(TemporaryDirectory(prefix="replastic-", ignore_cleanup_errors=True)))
        own = {"num_cpus": jobs, "num_gpus": gpus, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
        stack.callback(ray.shutdown)
        _start(ray, {"address": address} if address else {**own, "_temp_dir": str(scratch)})
        storage = Path(folder).resolve() / ".ray" if address else scratch / "tune"
        stack.callback(shutil.rmtree, storage, ignore_errors=True)
        share = (1.0 if address else min(1.0, gpus / jobs)) if device == "cuda" else 0.0
        needed = {"cpu": 1, **({"gpu": share} if share else {})}
        loaded = tuple(str(Path(plugin).expanduser().resolve()) for plugin in plugins)

        def crew(named: Mapping[str, Job], listener: Listener) -> dict[str, str]:
            if not named:
                return {}
            packed = {name: pickle.dumps(job) for name, job in named.items()}
            trial = tune.with_parameters(_trial, jobs=packed, plugins=loaded, cwd=os.getcwd())
            with _interrupts() as interrupted:
                told = _told(tune, listener, interrupted)
                fitted = tune.Tuner(
                    tune.with_resources(trial, needed),
                    param_space={"name": tune.grid_search(list(named))},
                    tune_config=tune.TuneConfig(max_concurrent_trials=jobs, reuse_actors=True),
                    run_config=tune.RunConfig(storage_path=str(storage), verbose=0, callbacks=[told]),
                ).fit()
            problems = {
                result.config["name"]: _death(result.error) if result.error else (result.metrics or {}).get("problem")
                for result in fitted
            }
            return {name: problems.get(name) or "" for name in named if problems.get(name, "it was not run")}

        yield crew


def _start(ray: Any, options: Mapping[str, Any]) -> None:
    """Start Ray or join a cluster; Ray gives its own processes 30 seconds, which a busy machine may need twice."""
    for attempts_left in reversed(range(ATTEMPTS)):
        try:
            ray.init(**options, logging_level=logging.CRITICAL, log_to_driver=False)
            return
        except Exception as error:  # The bare class, where its processes are slow to start.
            ray.shutdown()
            if not attempts_left or "address" in options:
                what = "the Ray cluster cannot be joined" if "address" in options else "Ray cannot be started here"
                raise UserError(f"{what}: {str(error).strip().splitlines()[0]}") from error


def _trial(config: Mapping[str, Any], *, jobs: Mapping[str, bytes], plugins: Sequence[str], cwd: str) -> None:
    """Body of a trial, in a process of Ray's: one job, its progress and what went wrong told to the sweep."""
    tell = require("ray.tune", "sweep", "a sweep").report
    torch.set_num_threads(1)
    reached, told = 0.0, time.monotonic()

    def progress(phases: float) -> None:
        nonlocal reached, told
        reached = phases
        if time.monotonic() - told > PAUSE:
            tell({"phases": phases})
            told = time.monotonic()

    try:
        os.chdir(cwd)
        for plugin in plugins:
            load_plugin(plugin)
        job: Job = pickle.loads(jobs[config["name"]])
        if not (job.folder / ".lock").exists():
            raise UserError(f"{job.folder.resolve()} is another folder here: a cluster needs one its machines share")
        with _when_free(job.directory.path):
            problem = attempt(execute, job, progress)
    except (ReplasticError, OSError) as error:
        problem = str(error)
    tell({"phases": reached, "problem": problem})


@contextmanager
def _when_free(folder: Path) -> Iterator[None]:
    """Hold a run's folder, waiting a while for a process that is about to die."""
    until = time.monotonic() + PATIENCE
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(alone(folder))
                break
            except UserError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.2)
        yield


@contextmanager
def _interrupts() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back until the function that is yielded is called, which raises it; a second one acts at once.

    Raised anywhere inside Ray it may be lost.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # It never reaches another thread.
        return
    came = threading.Event()

    def note(number: int, frame: FrameType | None) -> None:
        if came.is_set():
            raise KeyboardInterrupt
        came.set()

    def interrupted() -> None:
        if came.is_set():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield interrupted
        interrupted()
    finally:
        signal.signal(signal.SIGINT, before)


def _told(tune: Any, listener: Listener, interrupted: Callable[[], None]) -> Any:
    """A callback of Tune that passes on what trials tell, and stops when interrupted."""

    class Told(tune.Callback):  # type: ignore[misc]
        def __init__(self, listener: Listener, interrupted: Callable[[], None]) -> None:
            self.listener = listener
            self.interrupted = interrupted

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Tune keeps a copy on disk, which nobody reads; a terminal cannot be copied.

        def on_step_begin(self, iteration: int, trials: Any, **_: Any) -> None:
            self.interrupted()

        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Mapping[str, Any], **_: Any) -> None:
            self.listener.progress(trial.config["name"], result["phases"])

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            self.listener.ended(trial.config["name"], trial.last_result.get("problem", ""))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            self.listener.ended(trial.config["name"], "its process died")

    return Told(listener, interrupted)


def _death(error: BaseException) -> str:
    """What Ray says of a process that ended, in one sentence."""
    said = " ".join(str(error).split())
    memory = ", perhaps for lack of memory: try fewer --jobs" if "OOM" in said else ""
    return f"its process died{memory} ({type(error).__name__})"


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for a while."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
