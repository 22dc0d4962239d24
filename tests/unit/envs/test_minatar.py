"""MinAtar is MinAtar's own: the same games beside its own environment, step by step."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from replastic import envs
from replastic.envs.minatar import GAMES, draw
from replastic.seeds import derive
from support.simulators import some_actions

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    original = pytest.importorskip("minatar")


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("ramping", [True, False])
def test_it_goes_as_the_original(game: str, ramping: bool) -> None:
    environment = envs.from_spec(f"minatar/{game}:sticky=0.1,ramping={ramping}").make(2, 7)
    ours = [original.Environment(game, sticky_action_prob=0.1, difficulty_ramping=ramping) for _ in range(2)]
    for copy, theirs in enumerate(ours):
        theirs.seed(derive(7, "copy", copy) % 2**32)
        theirs.reset()
    over = 0
    for actions in some_actions(environment, 150):
        step = environment.step(actions)
        for copy, theirs in enumerate(ours):
            reward, terminal = theirs.act(int(actions[copy]))
            assert float(step.rewards[copy]) == reward
            assert bool(step.terminated[copy]) == bool(step.ended[copy]) == terminal
            last = torch.from_numpy(theirs.state().transpose(2, 0, 1).copy())
            assert torch.equal(step.next_observations()[copy], last)
            if terminal:
                over += 1
                theirs.reset()
                first = torch.from_numpy(theirs.state().transpose(2, 0, 1).copy())
                assert torch.equal(step.observations[copy], first)
    assert over or game == "freeway"


def test_a_limit_cuts_episodes_off() -> None:
    environment = envs.from_spec("minatar/freeway:limit=25").make(2, 0)
    assert environment.horizon == 25
    steps = [environment.step(actions) for actions in some_actions(environment, 60)]
    assert [number for number, step in enumerate(steps, 1) if step.truncated.all()] == [25, 50]
    assert not any(step.terminated.any() for step in steps)


def test_channels_are_filled_up_with_empty_ones() -> None:
    small = envs.from_spec("minatar/breakout").make(1, 0)
    large = envs.from_spec("minatar/breakout:channels=10").make(1, 0)
    assert large.observations.shape == (1, 10, 10, 10)
    assert torch.equal(large.observations[:, :4], small.observations)
    assert not large.observations[:, 4:].any()


def test_a_minimal_set_has_the_actions_of_the_game() -> None:
    environment = envs.from_spec("minatar/breakout:minimal=true,sticky=0").make(1, 0)
    assert environment.action.count == 3
    paddle = [environment.step(torch.tensor([action])).observations[0, 0, 9].int().argmax() for action in (2, 2, 1)]
    assert [int(place) for place in paddle] == [5, 6, 5], "right, right, left of the middle"


def test_each_kind_of_object_has_its_colour() -> None:
    objects = torch.zeros(3, 4, 5, dtype=torch.bool)
    objects[0, 1, 1] = objects[2, 1, 1] = objects[1, 3, 4] = True
    picture = draw(objects, cell=2)
    assert picture.shape == (8, 10, 3)
    assert picture[0, 0].tolist() == [0, 0, 0]
    colours = {tuple(colour) for colour in picture.flatten(0, 1).tolist()}
    assert len(colours) == 3, "nothing, the second kind, and the third on top of the first"
    environment = envs.from_spec("minatar/breakout").make(1, 0)
    assert environment.render().shape == (160, 160, 3)
    environment.step(torch.tensor([0]))
    shades = np.unique(environment.render().flatten(0, 1).numpy(), axis=0)
    objects = environment.observations[0]
    on_top = (objects.int() * torch.arange(1, 5)[:, None, None]).amax(0)
    assert len(shades) == len(on_top.unique()) > 3
