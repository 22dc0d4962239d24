"""Synthetic runs: small, deterministic, shaped like those of `replastic run`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from replastic.records import Record, RunDirectory, RunInfo
from replastic.report.curves import draw
from replastic.report.experiment import load
from replastic.report.plot import Plot
from replastic.report.tables import Table, final_table

SUMMARY = {
    "score": "metric/accuracy",
    "score_label": "accuracy on the task at its end",
    "event": "phase_end",
    "higher_is_better": True,
    "phase_label": "task",
    "curves": ["metric/dfi", "metric/dormant", "metric/effective_rank"],
}
ENVIRONMENT = {"replastic": "0.1.0", "python": "3.11.9", "packages": {"torch": "2.13.0"}, "git": None}

# For each method: score at the first task, at the last, and spread over seeds.
METHODS = {
    "base": (0.97, 0.15, 0.02),
    "fire": (0.97, 0.9, 0.01),
    "interpolation:strength=0.8": (0.97, 0.88, 0.02),
    "full_reset": (0.97, 0.8, 0.01),
}

WriteRun = Callable[..., RunDirectory]


@pytest.fixture
def write_run() -> WriteRun:
    """Write one run with the given scores, one a phase."""
    return _write_run


def _write_run(
    root: Path,
    method: str,
    seed: int,
    scores: Iterable[float],
    *,
    finished: bool = True,
    benchmark: str = "digits_random_labels",
    config: Mapping[str, Any] | None = None,
    summary: Mapping[str, Any] | None = None,
    extra: Callable[[int], Mapping[str, float]] = lambda phase: {},
    seconds: float = 2.0,
    environment: Mapping[str, Any] | None = None,
) -> RunDirectory:
    run = RunDirectory(root / method.replace(":", "-") / f"seed-{seed}")
    options = dict(pair.split("=") for pair in method.partition(":")[2].split(",") if pair)
    settings = {"steps": 300, "network": {"width": 256}, **(config or {}), "seed": seed}
    run.create(
        RunInfo(
            benchmark=benchmark,
            method=method,
            seed=seed,
            config={**settings, "method": options},
            summary={**SUMMARY, **(summary or {})},
            command="replastic run digits_random_labels --methods base fire --seeds 3",
            environment={**ENVIRONMENT, **(environment or {})},
        )
    )
    records: list[Record] = []
    for phase, score in enumerate(scores):
        step, time = 300 * (phase + 1), seconds * (phase + 1)
        if phase:
            at = {"phase": phase, "step": step - 300, "seconds": time - seconds}
            records.append(at | {"event": "before_boundary", "metric/accuracy": 0.1})
            records.append(at | {"event": "boundary", "metric/accuracy": 0.1} | extra(0))
        record = {"phase": phase, "step": step, "event": "phase_end", "seconds": time, "metric/accuracy": score}
        records.append(record | extra(phase))
    run.append(*records)
    if finished:
        run.finish()
    return run


def _diagnostics(method: str, generator: np.random.Generator) -> Callable[[int], Mapping[str, float]]:
    calm = method != "base"

    def at(phase: int) -> Mapping[str, float]:
        noise = float(np.exp(0.05 * generator.standard_normal()))
        dfi = (3.0 if calm else 4.0 * 1.35**phase) * noise
        return {
            "metric/dfi": dfi,
            "metric/dormant": (0.02 if calm else min(0.9, 0.04 * phase)) * noise,
            "metric/effective_rank": (180.0 if calm else 200.0 * 0.9**phase) * noise,
            **{f"metric/dfi/layers.{i}.weight": dfi * (i + 1) / 6 for i in range(3)},
        }

    return at


@pytest.fixture
def experiment_folder(tmp_path: Path) -> Path:
    """Four methods, three seeds, ten tasks; every run finished."""
    return _synthetic(tmp_path / "runs")


@pytest.fixture
def small_folder(tmp_path: Path) -> Path:
    """Two methods, two seeds, two tasks, one diagnostic: quick to draw."""
    root = tmp_path / "runs"
    for method, scores in (("base", (0.9, 0.5)), ("fire", (0.9, 0.8))):
        for seed in range(2):
            values = [score + 0.01 * seed for score in scores]
            _write_run(
                root, method, seed, values, summary={"curves": ["metric/dfi"]}, extra=lambda p: {"metric/dfi": p}
            )
    return root


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Table, list[Plot]]:
    """The table of `experiment_folder`'s runs and its plots."""
    table = final_table(load(_synthetic(tmp_path_factory.mktemp("drawn"))))
    return table, draw(table)


def _synthetic(
    root: Path, methods: Mapping[str, tuple[float, float, float]] = METHODS, *, phases: int = 10, seeds: int = 3
) -> Path:
    """Write runs whose score falls from the first value to the last, with that spread over seeds."""
    for index, (method, (start, end, spread)) in enumerate(methods.items()):
        for seed in range(seeds):
            generator = np.random.default_rng(100 * index + seed)
            shape = np.linspace(0, 1, phases) ** 0.6
            scores = start + (end - start) * shape + spread * generator.standard_normal(phases)
            _write_run(
                root,
                method,
                seed,
                np.clip(scores, 0, 1).tolist(),
                extra=_diagnostics(method, generator),
                seconds=2.0 + 0.1 * index,
            )
    return root
