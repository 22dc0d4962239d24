"""The plain loop beside DQN plays the same task, and the benchmarks' agents learn on their simulators."""

import importlib.util
import sys
from pathlib import Path

import pytest

pytest.importorskip("minatar")
SCRIPTS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location("dqn_updates", SCRIPTS / "dqn_updates.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "dqn_updates", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.integration
@pytest.mark.parametrize("ratio", [0.25, 1.0])
def test_both_loops_make_as_many_interactions_and_updates(script, ratio):
    task = script.task_of(ratio, 40)
    plain, ours = script.Plain(task, 3e-4, 32), script.Ours(task)
    for _ in range(task.learning_starts):
        plain.act()
    plain.go(40)
    ours.go(40)
    learner = ours.session.learner
    assert (plain.steps, plain.updates) == (learner.interactions, learner.updates)
    assert plain.updates == 40 * ratio
    assert plain.seen.shape == learner.games.observation.shape
    assert sum(p.numel() for p in plain.model.parameters()) == sum(p.numel() for p in learner.model.parameters())
