"""Triggers in a loop of one's own: `during(..., trigger=...)`, and a trigger alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import replastic
from replastic import triggers
from replastic.errors import UserError
from support.training_bench import build, data, loss_fn

QUICK = {
    "every": "every:steps=5",
    "plateau": "plateau:interval=2,patience=1,least=0.5",
    "dataset_change": "dataset_change:interval=1,window=3,deviations=0.1,rise=0.01",
    "rank_drop": "rank_drop:measure=effective_rank,interval=3,drop=0.00001,layers=0.1",
    "dfi": "dfi:interval=3,growth=1.001,floor=0.001,layers=0.1",
    "readiness": "readiness:interval=3,left=0.95",
}
every_trigger = pytest.mark.parametrize("name", triggers.names())


class Loop:
    """Training as people write it."""

    def __init__(self, method: str, trigger: Any, **given: Any) -> None:
        torch.manual_seed(0)
        self.model, _ = build()
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-2)
        given = {"batches": data(0), "loss_fn": loss_fn, **given}
        self.method = replastic.during(method, self.model, optimizer, trigger=trigger, seed=3, **given)

    def train(self, first: int, last: int) -> None:
        batches = [*data(0), *data(1)]
        self.model.train()
        for step in range(first, last):
            torch.manual_seed(step)
            self.method.optimizer.zero_grad()
            loss = loss_fn(self.model, batches[step % len(batches)])
            loss.backward()
            self.method.optimizer.step()
            self.method.after_update(loss=loss)

    def state(self) -> tuple[Any, ...]:
        own = self.method.state_dict(), self.model.state_dict(), self.method.optimizer.state_dict()
        return tuple(copy.deepcopy(part) for part in own)

    def load(self, state: tuple[Any, ...]) -> None:
        self.method.load_state_dict(state[0])
        self.model.load_state_dict(state[1])
        self.method.optimizer.load_state_dict(state[2])


@every_trigger
def test_it_lets_the_method_act_and_lists_when_and_why(name: str) -> None:
    loop = Loop("fire", QUICK[name])
    loop.train(0, 30)
    assert loop.method.acted, f"{name} never acted: give QUICK settings with which it does"
    assert loop.method.run.phase == len(loop.method.acted)
    assert all(1 <= acted.step <= 30 and acted.reason for acted in loop.method.acted)


@every_trigger
@pytest.mark.parametrize("stop", [4, 17])
def test_resumed_it_acts_at_the_same_updates(name: str, stop: int) -> None:
    whole = Loop("fire", QUICK[name])
    whole.train(0, 30)
    first = Loop("fire", QUICK[name])
    first.train(0, stop)
    again = Loop("fire", QUICK[name])
    again.load(first.state())
    again.train(stop, 30)
    assert [*first.method.acted, *again.method.acted] == whole.method.acted
    for own, other in zip(again.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(own, other)


def test_what_it_writes_is_what_cross_writes() -> None:
    with_trigger, by_hand = Loop("fire", "every:steps=5"), Loop("fire", None)
    with_trigger.train(0, 5)
    by_hand.train(0, 5)
    by_hand.method.cross()
    for own, other in zip(with_trigger.model.parameters(), by_hand.model.parameters(), strict=True):
        assert torch.equal(own, other)


def test_the_outcomes_can_be_undone() -> None:
    loop = Loop("fire", "every:steps=1")
    before = copy.deepcopy(loop.model.state_dict())
    outcomes = loop.method.after_update(loss=1.0)
    assert any(not torch.equal(v, before[k]) for k, v in loop.model.state_dict().items())
    for outcome in reversed(outcomes):
        outcome.undo_()
    assert all(torch.equal(v, before[k]) for k, v in loop.model.state_dict().items())


def test_a_boundary_that_is_crossed_by_hand_begins_the_count_anew() -> None:
    loop = Loop("fire", "every:steps=5")
    loop.train(0, 4)
    loop.method.cross()
    loop.train(4, 8)
    assert loop.method.acted == []
    loop.train(8, 9)
    assert [acted.step for acted in loop.method.acted] == [9]


def test_the_caller_may_say_that_the_data_changed() -> None:
    loop = Loop("fire", "dataset_change")
    loop.method.after_update(loss=1.0)
    loop.method.after_update(loss=1.0, changed=True)
    assert [(a.step, a.reason) for a in loop.method.acted] == [(2, "the data changed, as was signalled")]


def test_looking_leaves_no_trace() -> None:
    one, other = Loop("fire", "rank_drop:interval=1,drop=0.999"), Loop("fire", None)
    one.train(0, 6)
    other.train(0, 6)
    assert one.model.training
    for own, theirs in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        assert torch.equal(own, theirs)
    for own, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert own.grad is not None
        assert torch.equal(own.grad, theirs.grad)


def test_alone_in_any_loop() -> None:
    trigger = triggers.from_spec("plateau:interval=1,patience=2")
    fired = [bool(trigger.update(loss=loss)) for loss in (3.0, 2.0, 2.0, 2.0, 2.0)]
    assert fired == [False, False, False, True, False]


def test_wrong_input_is_one_sentence() -> None:
    with pytest.raises(UserError, match="unknown trigger 'sometimes'"):
        Loop("fire", "sometimes")
    with pytest.raises(UserError, match="trigger must be a name such as 'plateau'"):
        Loop("fire", 7)
    with pytest.raises(UserError, match="redo does not act between phases: a trigger has no effect on it"):
        Loop("redo", "every")
    with pytest.raises(UserError, match="the trigger rank_drop measures feature_srank on data: pass batches="):
        Loop("fire", "rank_drop", batches=None)
    with pytest.raises(UserError, match="the trigger rank_drop measures hessian_top of the loss: pass loss_fn="):
        Loop("fire", "rank_drop:measure=hessian_top", loss_fn=None)
    with pytest.raises(UserError, match="the trigger rank_drop cannot go by sfe, which compares two states"):
        Loop("fire", "rank_drop:measure=sfe")
    with pytest.raises(UserError, match="the trigger plateau decides by the training loss: pass loss="):
        Loop("fire", "plateau").method.after_update()


def test_the_state_of_another_trigger_is_refused() -> None:
    saved = Loop("fire", "every").method.state_dict()
    with pytest.raises(UserError, match="the saved state is that of the trigger every, not of plateau"):
        Loop("fire", "plateau").method.load_state_dict(saved)


def test_without_a_trigger_the_loss_has_no_effect() -> None:
    method = Loop("fire", None).method
    assert method.after_update() == []
    assert method.after_update(loss=torch.tensor(1.0)) == []
