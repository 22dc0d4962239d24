"""Jobs as trials of Ray Tune on a cluster; the run folders say which are done."""

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
from types import FrameType
from typing import Any

import torch

from replastic.disk import user_path
from replastic.errors import ReplasticError, UserError
from replastic.experiments.experiment import Crew, alone
from replastic.experiments.listener import Listener
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
"""Set in this process while it is in the cluster: Ray reports nothing to its makers, prints no tables of its own and
leaves Ctrl-C to this process."""
PATIENCE = 60.0
"""Seconds that a trial waits for a run folder which the process of a killed sweep may still hold."""
PAUSE = 1.0
"""Least seconds between two reports of progress. A trial waits for each report."""


@contextmanager
def ray_crew(
    address: str, *, jobs: int, folder: str | Path, device: str = "cpu", plugins: Sequence[str] = ()
) -> Iterator[Crew]:
    """Join a Ray cluster for the length of a `with` block, and yield a crew that works there.

    Args:
        address: Of the running cluster; ``auto`` finds it.
        jobs: Most jobs at a time, each in a process of its own with one torch thread.
        folder: Of the experiment. The machines of the cluster must see it under the same path.
        device: ``cpu``, or ``cuda`` for one GPU for each job.
        plugins: Plug-in files that each process loads first.

    Raises:
        MissingExtraError: Ray is not installed.
        UserError: The cluster is not there.
    """
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device must be cpu or cuda with --address, since Ray hands out the GPUs; got {device!r}")
    ray = require("ray", "sweep", "a sweep on a cluster")
    tune = require("ray.tune", "sweep", "a sweep on a cluster")
    with ExitStack() as stack:
        stack.enter_context(_environment(ENVIRONMENT))
        stack.callback(ray.shutdown)
        _join(ray, address)
        storage = Path(folder).resolve() / ".ray"
        stack.callback(shutil.rmtree, storage, ignore_errors=True)
        needed = {"cpu": 1, **({"gpu": 1} if device == "cuda" else {})}
        loaded = tuple(str(user_path(plugin).resolve()) for plugin in plugins)

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


def _join(ray: Any, address: str) -> None:
    """Join the cluster at `address`."""
    try:
        ray.init(address=address, logging_level=logging.CRITICAL, log_to_driver=False)
    except Exception as error:  # Ray raises errors of many classes here, the bare one among them.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"the Ray cluster at {address!r} cannot be joined: {reason}") from error


def _trial(config: Mapping[str, Any], *, jobs: Mapping[str, bytes], plugins: Sequence[str], cwd: str) -> None:
    """Body of a trial, in a process of Ray: do one job, and tell the sweep its progress and its problem."""
    tell = require("ray.tune", "sweep", "a sweep on a cluster").report
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
    """Hold a run's folder. Wait a while if a process that is about to end still holds it."""
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
    """Hold Ctrl-C back until the yielded function is called, which then raises it. A second Ctrl-C acts at once.

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
    """One sentence for the error by which Ray reports a process that ended."""
    said = " ".join(str(error).split())
    memory = ", perhaps for lack of memory: try fewer --jobs" if "OOM" in said else ""
    return f"its process died{memory} ({type(error).__name__})"


@contextmanager
def _environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the length of a `with` block."""
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
