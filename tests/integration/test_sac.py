"""SAC on simulators: Pendulum is learned, and a humanoid of dm_control goes on exactly after a stop."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from replastic import benchmarks
from replastic.learners import Trainer
from replastic.learners.sac import Sac
from replastic.methods import Method, from_spec
from replastic.networks.simba import Simba
from replastic.records import RunDirectory
from replastic.training import Protocol, train
from replastic.training.session import Session
from support.small_runs import content


@pytest.mark.slow
def test_pendulum_is_learned() -> None:
    """At random -1200, at rest below -1000; a controller that swings up and balances gets about -150."""
    pytest.importorskip("gymnasium")
    task = Sac(
        environment="gym/Pendulum-v1",
        steps=5000,
        learning_starts=500,
        replay_ratio=1.0,
        buffer_size=5000,
        gamma=0.97,
        evaluations=1,
        interventions=(),
        episodes=8,
        network=Simba(width=32, blocks=1),
        actor="simba:width=32,blocks=1",
    )
    trainer = Trainer(learning_rate=2e-3, batch_size=64, warmup=0.0, clip_norm=0.0, weight_decay=0.01)
    with Session(Protocol(task=task, trainer=trainer), task.open(), Method(), 0) as run:
        run.begin(0)
        run.learner.begin(0, 0)
        run.model.train()
        for step in range(task.updates_of(0)):
            run.update(step, task.updates_of(0))
        assert run.learner.evaluate(0)["metric/return"] > -400


@pytest.mark.integration
def test_a_humanoid_goes_on_exactly_and_the_method_acts(tmp_path: Path) -> None:
    pytest.importorskip("dm_control")
    protocol = benchmarks.get("humanoid_sac")().presets["smoke"].protocol
    protocol = replace(protocol, trainer=replace(protocol.trainer, save_seconds=0.0))
    source = protocol.task.open()
    assert protocol.task.facts(source)["updates per frame"] == 1.0
    assert protocol.task.facts(source)["discount"] == pytest.approx(0.99)

    class Stop(Exception):
        pass

    def run(path: Path, *, stop_at: float = 99.0) -> list[dict[str, float]]:
        def progress(phases: float) -> None:
            if phases >= stop_at:
                raise Stop

        with suppress(Stop):
            train(protocol, source, from_spec("fire"), 1, RunDirectory(path), progress=progress)
        return content(RunDirectory(path))

    whole = run(tmp_path / "whole")
    run(tmp_path / "stopped", stop_at=1.0)
    assert run(tmp_path / "stopped") == whole
    assert whole[-1]["frames"] == 2 * 40
