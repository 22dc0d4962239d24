"""Atari is ale-py's own: the same frames as its vectorised environment gives, lives and scores as the game has them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from replastic import envs
from replastic.errors import UserError
from replastic.seeds import derive
from support.simulators import some_actions

vector = pytest.importorskip("ale_py.vector_env")


def test_it_goes_as_the_original() -> None:
    environment = envs.from_spec("atari/Asterix").make(2, 7)
    theirs = vector.AtariVectorEnv("asterix", 1, repeat_action_probability=0.25, reward_clipping=False)
    first, _ = theirs.reset(seed=np.array([derive(7, "copy", 1) % 2**31]))
    assert torch.equal(environment.observations[1], torch.from_numpy(first[0]))
    clipped = 0
    for actions in some_actions(environment, 260):
        step = environment.step(actions)
        observation, reward, terminated, _, _ = theirs.step(actions[1:].numpy())
        assert float(step.raw_rewards[1]) == reward[0]
        assert float(step.rewards[1]) == max(-1, min(1, reward[0]))
        clipped += int(step.rewards[1] != step.raw_rewards[1])
        assert torch.equal(step.next_observations()[1], torch.from_numpy(observation[0]))
        assert bool(step.terminated[1]) == terminated[0]
        if terminated[0]:
            break
    assert clipped, "points of Asterix are tens"
    environment.close()


def test_a_lost_life_ends_nothing_but_the_value() -> None:
    environment, whole = (
        envs.from_spec("atari/Breakout:life_loss=true,idle=0").make(1, 3, training=training)
        for training in (True, False)
    )
    lost, episodes = 0, []
    for actions in some_actions(environment, 400):
        before = environment.observations
        step, other = environment.step(actions), whole.step(actions)
        assert torch.equal(step.observations, other.observations)
        assert torch.equal(step.ended, other.ended)
        assert torch.equal(other.terminated, other.ended)
        life = step.terminated & ~step.ended
        assert torch.equal(step.observations[life, :3], before[life, 1:]), "the game goes on"
        lost += int(life.sum())
        episodes += step.episodes
    assert episodes
    assert lost >= 4 * len(episodes), "five lives a game, of which the last ends it"
    assert all(episode.score == int(episode.score) for episode in episodes)
    environment.close()
    whole.close()


def test_an_episode_is_cut_off_after_so_many_frames() -> None:
    environment = envs.from_spec("atari/Pong:frames=40,idle=0,full=true").make(2, 0)
    assert environment.horizon == 10
    assert environment.action.count == 18
    steps = [environment.step(actions) for actions in some_actions(environment, 20)]
    assert [number for number, step in enumerate(steps, 1) if step.truncated.all()] == [10, 20]
    assert not any(step.terminated.any() for step in steps)
    assert steps[9].observations[0, :3].sum() == 0, "a new episode begins with an empty stack"
    environment.close()


def test_the_picture_in_colour_shows_what_the_agent_sees() -> None:
    environment = envs.from_spec("atari/Breakout:stack=1").make(1, 4, drawn=True)
    assert environment.observation.shape == (84, 84)
    for actions in some_actions(environment, 30):
        environment.step(actions)
    picture = environment.render()
    assert picture.shape == (210, 160, 3)
    grey = picture.float().permute(2, 0, 1)[None] * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    small = torch.nn.functional.interpolate(grey.sum(1, keepdim=True), (84, 84), mode="area")[0, 0]
    difference = (small - environment.observations[0].float()).abs().mean()
    assert float(difference) < 2.0
    plain = envs.from_spec("atari/Breakout").make(1, 4)
    with pytest.raises(UserError, match="atari/Breakout was made without pictures: make it with drawn=True"):
        plain.render()
    plain.close()
    environment.close()
