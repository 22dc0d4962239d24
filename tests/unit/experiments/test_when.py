"""A method with a trigger of its own: one experiment compares triggers, the fixed boundary and never."""

from __future__ import annotations

import json

import pytest

from replastic import experiments
from replastic.errors import UserError
from replastic.experiments import when
from replastic.report.controls import is_control
from support.small_plans import planned


def test_method_and_trigger_are_taken_apart() -> None:
    assert when.split("fire:scale=preserve@plateau:patience=3") == ("fire:scale=preserve", "plateau:patience=3")
    assert when.split("ewc+fire @ every") == ("ewc+fire", "every")
    assert when.split("fire") == ("fire", "")
    assert when.canonical("fire@every:steps=1000") == "fire@every"
    assert when.canonical("fire:scale=preserve@plateau:patience=3,rest=0") == "fire:scale=preserve@plateau:patience=3"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("fire@sometimes", "unknown trigger 'sometimes'"),
        ("fier@every", "unknown method 'fier'"),
        ("fire@every@plateau", "one method takes one trigger, got 'fire@every@plateau'"),
        ("redo@every", "redo does not act between phases: the trigger 'every' has no effect on it, leave it out"),
        ("fire@every:steps=0", "every: steps must be at least 1, got 0"),
    ],
)
def test_wrong_text_is_one_sentence(spec: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        when.canonical(spec)


def test_a_control_stays_one_with_a_trigger() -> None:
    assert is_control("random_isometry@every")
    assert not is_control("fire@every")


def test_one_experiment_compares_when_to_act(tmp_path) -> None:
    chosen = ("base", "fire", "fire@every:steps=3", "fire@plateau:interval=1,patience=2,least=0.5")
    plan = planned(tmp_path, chosen, (0,))
    assert [job.method for job in plan.jobs] == list(chosen)
    assert len({job.directory.path for job in plan.jobs}) == len(chosen)
    assert experiments.run(plan, workers=1) == {}
    for job in plan.jobs:
        events = [r["event"] for r in job.directory.records()]
        own = "@" in job.method
        assert ("acted" in events) is own
        assert ("boundary" in events) is not own
        content = json.loads((job.directory.path / "run.json").read_text())
        assert "trigger" not in {k for k in content["config"] if k != "method"}
        assert ("trigger" in content["config"]["method"]) is own
    assert planned(tmp_path, chosen, (0,)).todo == ()
    other = planned(tmp_path, ("fire@every:steps=4",), (0,))
    assert len(other.todo) == 1
