"""Shifted observations: an offset for each level, the same for everyone, and none on the first."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from replastic import envs
from replastic.envs.shifted import ShiftedEnvironment
from replastic.errors import UserError
from support.simulators import some_actions

pytestmark = pytest.mark.skipif(importlib.util.find_spec("gymnasium") is None, reason="gymnasium is not installed")


def shifted(options: str) -> ShiftedEnvironment:
    made = envs.from_spec(f"shifted/gym/CartPole-v1:{options}").make(2, 5)
    assert isinstance(made, ShiftedEnvironment)
    return made


def test_every_observation_of_a_level_has_its_offset() -> None:
    plain, moved = envs.from_spec("gym/CartPole-v1").make(2, 5), shifted("every=10")
    offsets = [moved.offset(level) for level in range(6)]
    assert torch.equal(moved.observations, plain.observations)
    endings = 0
    for number, actions in enumerate(some_actions(plain, 55), 1):
        a, b = plain.step(actions), moved.step(actions)
        assert torch.equal(b.observations, a.observations + offsets[number // 10])
        assert torch.equal(b.final, a.final + offsets[(number - 1) // 10])
        assert a.episodes == b.episodes
        endings += len(a.episodes)
    assert endings
    assert moved.level == 5


def test_the_first_level_has_no_offset_and_the_others_are_drawn_once() -> None:
    one, other = shifted("sigma=2"), shifted("sigma=2,draw=1")
    assert not one.offset(0).any()
    assert torch.equal(one.offset(3), shifted("level=3").offset(3))
    assert not torch.equal(one.offset(3), one.offset(4))
    assert not torch.equal(one.offset(3), other.offset(3))
    assert torch.allclose(shifted("sigma=6").offset(3), 3 * one.offset(3))
    drawn = torch.stack([one.offset(level) for level in range(1, 1001)])
    assert abs(float(drawn.std()) - 2.0) < 0.1
    assert abs(float(drawn.mean())) < 0.15


def test_a_level_of_its_own_is_that_level() -> None:
    plain, moved = envs.from_spec("gym/CartPole-v1").make(2, 5), shifted("level=4")
    assert torch.equal(moved.observations, plain.observations + moved.offset(4))


def test_only_vectors_are_shifted() -> None:
    spec = envs.from_spec("shifted/gym/CartPole-v1:level=2").spec
    assert spec == "shifted/gym/CartPole-v1:level=2"
    if importlib.util.find_spec("minatar") is None:
        pytest.skip("minatar is not installed")
    with pytest.raises(UserError, match=r"only vectors are shifted, and minatar/breakout shows \[4, 10, 10\]"):
        envs.from_spec("shifted/minatar/breakout").make(1, 0)
    with pytest.raises(UserError, match="shifted has no game 'gym/CartPole'; did you mean 'gym/CartPole-v"):
        envs.from_spec("shifted/gym/CartPole")
