"""Promises of every environment, whatever its simulator: checked actions, episodes counted, state restored."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from replastic.envs import ActionSpace, Environment, ObservationSpace, Step
from replastic.envs._python_state import as_tensor
from replastic.errors import UserError
from replastic.seeds import derive
from support.scripted_environment import Script, ScriptedEnvironment


class Values(Environment):
    """Shows the actions that it was given."""

    exact = False

    def __init__(self) -> None:
        super().__init__("values/game", 2, ObservationSpace((3,), torch.float32), ActionSpace(shape=(3,)))
        self.reset(4)

    def _reset(self, seed: int) -> Tensor:
        self.seeded = seed
        return torch.zeros(2, 3)

    def _step(self, actions: Tensor) -> Step:
        no = torch.zeros(2, dtype=torch.bool)
        return Step(actions, torch.zeros(2), torch.zeros(2), no, no, actions[:0])


def test_episodes_are_counted_with_raw_rewards() -> None:
    environment = ScriptedEnvironment(2, [Script(steps=2), Script(steps=3, cut_off=True)])
    steps = [environment.step(torch.tensor([2, 1])) for _ in range(3)]
    assert [episode.copy for step in steps for episode in step.episodes] == [0, 1]
    first, second = steps[1].episodes[0], steps[2].episodes[0]
    assert (first.score, first.steps, second.score, second.steps) == (8.0, 2, 6.0, 3)
    assert steps[0].rewards.tolist() == [1.0, 1.0]
    assert steps[0].raw_rewards.tolist() == [4.0, 2.0]


def test_a_cut_off_episode_is_not_terminated() -> None:
    environment = ScriptedEnvironment(2, [Script(steps=1, cut_off=True), Script(steps=1)])
    step = environment.step(torch.tensor([0, 0]))
    assert step.terminated.tolist() == [False, True]
    assert step.ended.tolist() == [True, True]
    assert step.truncated.tolist() == [True, False]


def test_the_last_observations_lie_beside_the_next_ones() -> None:
    environment = ScriptedEnvironment(3, [Script(steps=1), Script(steps=9), Script(steps=1)])
    step = environment.step(torch.zeros(3, dtype=torch.int64))
    assert step.observations[:, 1:3].tolist() == [[1, 0], [0, 1], [1, 0]]
    assert step.next_observations()[:, 1:3].tolist() == [[0, 1], [0, 1], [0, 1]]
    assert torch.equal(environment.observations, step.observations)


@pytest.mark.parametrize(
    ("actions", "said"),
    [
        (torch.tensor([0, 3]), "actions must lie in 0 to 2, got [0, 3]"),
        (torch.tensor([0, -1]), "actions must lie in 0 to 2, got [0, -1]"),
        (torch.tensor([0]), "actions must be [2] of torch.int64, got [1] of torch.int64"),
        (torch.zeros(2), "actions must be [2] of torch.int64, got [2] of torch.float32"),
    ],
)
def test_actions_that_there_are_not_are_refused(actions: Tensor, said: str) -> None:
    with pytest.raises(UserError) as caught:
        ScriptedEnvironment(2, [Script(steps=2)]).step(actions)
    assert said in str(caught.value)


def test_values_are_cut_off_at_their_bounds_and_must_be_finite() -> None:
    environment = Values()
    seen = environment.step(torch.tensor([[2.0, -3.0, 0.5], [0.0, 1.0, -1.0]])).observations
    assert seen.tolist() == [[1.0, -1.0, 0.5], [0.0, 1.0, -1.0]]
    with pytest.raises(UserError, match="values/game: actions must be finite"):
        environment.step(torch.full((2, 3), torch.nan))


def test_a_restored_environment_goes_on_with_its_episodes() -> None:
    environment = ScriptedEnvironment(1, [Script(steps=4)])
    environment.step(torch.tensor([2]))
    other = ScriptedEnvironment(1, [Script(steps=4)])
    other.load_state_dict(environment.state_dict())
    for _ in range(3):
        last = other.step(torch.tensor([1]))
    assert (last.episodes[0].score, last.episodes[0].steps) == (4.0 + 3 * 2.0, 4)


def test_where_nothing_can_be_restored_the_new_beginning_is_drawn_from_seed_and_steps() -> None:
    environment = Values()
    for _ in range(5):
        environment.step(torch.ones(2, 3))
    other = Values()
    other.load_state_dict(environment.state_dict())
    assert other.seeded == derive(4, "resumed", 5)
    assert other.observations.tolist() == [[0.0] * 3] * 2
    assert "new episode" in other.resumes
    again = Values()
    again.load_state_dict(other.state_dict())
    assert again.seeded == other.seeded, "a second stop at the same place goes on alike"


def test_a_state_of_another_environment_is_refused() -> None:
    state = ScriptedEnvironment(2, [Script(steps=4)]).state_dict()
    with pytest.raises(UserError, match="scripted/game: the saved state has 2 copies, this environment 3"):
        ScriptedEnvironment(3, [Script(steps=4)]).load_state_dict(state)
    del state["where"]
    with pytest.raises(UserError, match="scripted/game: the saved state is of another environment, it has no 'where'"):
        ScriptedEnvironment(2, [Script(steps=4)]).load_state_dict(state)


def test_what_text_cannot_hold_is_refused() -> None:
    for value in (object(), {1: 2}, [lambda: 0]):
        with pytest.raises(TypeError):
            as_tensor(value)
