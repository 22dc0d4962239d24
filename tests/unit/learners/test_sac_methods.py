"""Every method at work on SAC: an intervention in the middle of a short run, or a clear word why it cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from replastic import methods
from replastic.errors import UserError
from replastic.learners import Trainer, _off_policy
from replastic.methods import from_spec
from replastic.records import RunDirectory
from replastic.training import Protocol, train
from support.small_runs import content
from support.tiny_agents import AT_POINT
from support.toy_control import control

TASK = replace(AT_POINT, steps=32, learning_starts=8, buffer_size=100, evaluations=8, longest=5)
TRAINER = Trainer(batch_size=4, learning_rate=1e-3, warmup=0.0, clip_norm=0.0, weight_decay=0.01)
REFUSED = {
    "replay": "replay needs training data that it can choose",
}
"""Methods that have no sense here, and how they say so."""
SPECS = {
    "average": "average:last=2",
    "interpolation": "interpolation:toward=fresh",
    "redo": "redo:every=5,batches=2,dormancy_threshold=0.5",
}


def outcome(name: str, path: Path) -> list[dict[str, float]]:
    protocol = Protocol(task=TASK, trainer=replace(TRAINER, checkpoints=name in ("average", "from_checkpoint")))
    directory = RunDirectory(path)
    train(replace(protocol, recipe="paper-sac"), control(), from_spec(SPECS.get(name, name)), 3, directory)
    return content(directory)


@pytest.mark.parametrize("name", methods.names())
def test_a_method_acts_in_the_middle_of_a_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_off_policy, "PASS", 12)
    if name in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name]):
            outcome(name, tmp_path)
        return
    found = outcome(name, tmp_path)
    assert found[-1]["interactions"] == 32
    assert [record["event"] for record in found if record["event"] == "phase_end"] == ["phase_end"] * 2
