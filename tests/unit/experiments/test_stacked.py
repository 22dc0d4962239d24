"""Runs of an experiment trained as one: the choice, the folders, and what becomes of a run that fails."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from replastic import benchmarks, experiments
from replastic.errors import UserError
from replastic.experiments import experiment, stacked
from replastic.experiments.listener import Listener
from replastic.experiments.runs import Job
from replastic.experiments.stacked import Stacking, settle
from replastic.learners import Trainer
from replastic.networks.mlp import Mlp
from replastic.parallel.workers import attempt
from replastic.records import RunDirectory
from replastic.streams.random_labels import RandomLabels


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., experiments.Plan]:
    """A function that plans runs of tiny networks."""
    spec = benchmarks.get("digits_random_labels")()
    whole = spec.presets["smoke"].protocol
    task = replace(whole.task, stream=RandomLabels(tasks=2, images=40, steps=6), network=Mlp(hidden=(8,)))
    protocol = replace(whole, task=task, metrics=("dfi",), boundary_metrics=())

    def plan(*methods: str, seeds: int = 2, folder: str = "out", **changes: Any) -> experiments.Plan:
        return experiments.plan(spec, replace(protocol, **changes), methods, range(seeds), tmp_path / folder)

    return plan


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Jobs are carried out in this process; gives the names of those that were begun together."""
    begun: list[tuple[str, ...]] = []

    def work(
        jobs: Mapping[str, Any],
        function: Any,
        *,
        progress: Callable[[str, float], None],
        ended: Callable[[str, str], None],
        **_: Any,
    ) -> dict[str, str]:
        problems = {}
        for name, job in jobs.items():
            begun.append(tuple(one.name for one in job) if isinstance(job, tuple) else (job.name,))
            problem = attempt(function, job, lambda value, name=name: progress(name, value))  # type: ignore[misc]
            ended(name, problem)
            problems |= {name: problem} if problem else {}
        return problems

    monkeypatch.setattr(experiment, "work", work)
    return begun


def records(job: Job) -> list[dict[str, Any]]:
    return [{k: v for k, v in record.items() if k != "seconds"} for record in job.directory.records()]


def test_nothing_is_stacked_unless_asked_for(planned: Any) -> None:
    assert settle(planned("base").todo, "never", 1) == Stacking()
    assert settle([], "auto", 1) == Stacking()
    assert not Stacking().in_words()


@pytest.mark.parametrize("asked", ["0", "-1", "often", "2.5", ""])
def test_what_cannot_be_asked_for(asked: str, planned: Any) -> None:
    with pytest.raises(UserError, match="give auto, never, or a number of runs above 0"):
        settle(planned("base").todo, asked, 1)


def test_a_number_is_the_most_and_no_process_is_idle_for_it(planned: Any) -> None:
    jobs = planned("base", "fire", "redo", seeds=4).todo
    assert settle(jobs, "16", 1).runs == 8
    assert settle(jobs, "16", 2).runs == 4
    assert settle(jobs, "3", 2).runs == 3
    assert settle(jobs, "16", 8).runs == 1
    assert settle(jobs, "16", 1).alone == {"redo": "redo watches the network while it trains"}


@pytest.mark.parametrize(
    ("times", "runs"),
    [({1: 1.0, 8: 0.4, 4: 0.3, 2: 0.6}, 4), ({1: 1.0, 8: 0.95}, 1), ({}, 1), ({1: 1.0, 8: 0.2, 4: 0.25}, 8)],
)
def test_the_fastest_counts_if_it_pays(
    times: dict[int, float], runs: int, planned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(stacked, "_probe", lambda sizes, *_: tried.append(sizes) or times)
    found = settle(planned("base", "fire", seeds=8).todo, "auto", 2)
    assert (found.runs, found.milliseconds, tried) == (runs, times, [[8, 4, 2]])


@pytest.mark.parametrize(
    ("share", "sizes"), [(1, []), (2, [2]), (3, [3, 2]), (6, [6, 3, 2]), (16, [16, 8, 4, 2]), (17, [9, 5, 3, 2])]
)
def test_sizes_share_the_runs_evenly(share: int, sizes: list[int]) -> None:
    assert stacked._sizes(share) == sizes


def test_the_probe_times_the_plain_loop_and_every_size(planned: Any) -> None:
    found = settle(planned("base", "l2", seeds=3).todo, "auto", 1)
    assert set(found.milliseconds) == {1, 2, 3, 6}
    assert all(0 < value < math.inf for value in found.milliseconds.values())
    assert found.record()["milliseconds_per_update"].keys() == {"1", "2", "3", "6"}
    assert "ms for an update of one network" in found.in_words()


def test_sizes_that_give_other_losses_are_left_out(planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(segments: Any) -> None:
        for segment in segments:
            segment.train()
            segment.losses = [loss * (2 if len(segments) == 3 else 1) for loss in segment.losses]

    monkeypatch.setattr(stacked.stacked, "train", wrong)
    assert set(settle(planned("base", seeds=3).todo, "auto", 1).milliseconds) == {1, 2}


def test_networks_without_a_stacked_form_train_alone_and_say_why(planned: Any) -> None:
    plan = planned("base", "fire")
    other = replace(plan.jobs[0].protocol, trainer=replace(plan.jobs[0].protocol.trainer, accumulate=2))
    found = settle([replace(job, protocol=other) for job in plan.jobs], "auto", 1)
    assert found.runs == 1
    assert found.alone == dict.fromkeys(("base", "fire"), "batches are trained in parts")
    assert "fire trains alone, as batches are trained in parts" in found.in_words()


@pytest.mark.parametrize("methods_from", [0, 1])
def test_the_folders_are_those_of_runs_trained_one_by_one(
    methods_from: int, planned: Any, here: list[tuple[str, ...]]
) -> None:
    specs = ("base", "fire", "redo")
    plain = planned(*specs, folder="plain", methods_from=methods_from)
    assert not experiments.run(plain, workers=1)
    here.clear()
    told: list[tuple[str, str]] = []
    both = planned(*specs, folder="stacked", methods_from=methods_from)
    both = replace(both, stacking=settle(both.todo, "4", 1))
    listener = Listener(ended=lambda name, problem: told.append((name, problem)))
    assert not experiments.run(both, workers=1, listener=listener)
    first = [("shared first phase, seed 0", "shared first phase, seed 1")] if methods_from else []
    together = ("base, seed 0", "base, seed 1", "fire, seed 0", "fire, seed 1")
    assert here == [*first, together, ("redo, seed 0",), ("redo, seed 1",)]
    assert dict(told) == {name: "" for names in here for name in names}
    for one, other in zip(plain.jobs, both.jobs, strict=True):
        assert other.directory.done
        assert not (other.directory.path / "state").exists()
        assert sorted(p.name for p in one.directory.path.iterdir()) == sorted(
            p.name for p in other.directory.path.iterdir()
        )
        for a, b in zip(records(one), records(other), strict=True):
            assert list(a) == list(b)
            assert {k: a[k] for k in ("phase", "step", "event")} == {k: b[k] for k in ("phase", "step", "event")}
            numbers = [key for key in a if key.startswith("metric/")]
            assert [b[key] for key in numbers] == pytest.approx([a[key] for key in numbers], rel=1e-3, abs=1e-3)
        assert other.directory.info().environment.get("stacked") == (None if other.method == "redo" else 4)
        assert one.directory.info().config == other.directory.info().config
    noted = json.loads((both.jobs[0].folder / "stacked.json").read_text())
    assert noted["runs"] == 4
    assert not (plain.jobs[0].folder / "stacked.json").exists()


def test_a_run_that_fails_is_trained_once_more_alone_and_says_why(planned: Any, here: list[tuple[str, ...]]) -> None:
    trainer = Trainer(optimizer="sgd", clip_norm=0.0, batch_size=20)
    plan = planned("base", "l2:strength=1e30", seeds=1, trainer=trainer)
    plan = replace(plan, stacking=settle(plan.todo, "2", 1))
    noted: list[str] = []
    failures = experiments.run(plan, workers=1, listener=Listener(noted=noted.append))
    assert here == [("base, seed 0", "l2:strength=1e+30, seed 0"), ("l2:strength=1e+30, seed 0",)]
    assert list(failures) == ["l2:strength=1e+30, seed 0"]
    assert "became" in failures["l2:strength=1e+30, seed 0"]
    assert noted == ["stacked: 1 of 2 runs as one did not finish; each goes on alone"]
    assert RunDirectory(plan.jobs[0].directory.path).done


def test_a_stack_that_breaks_leaves_its_runs_to_the_plain_loop(
    planned: Any, here: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(stacked.stacked, "train", broken)
    plan = planned("base")
    noted: list[str] = []
    listener = Listener(noted=noted.append)
    assert not experiments.run(replace(plan, stacking=Stacking(2, "2")), workers=1, listener=listener)
    assert all(job.directory.done for job in plan.jobs)
    assert noted == ["stacked: 2 of 2 runs as one did not finish (RuntimeError: no such kernel); each goes on alone"]
