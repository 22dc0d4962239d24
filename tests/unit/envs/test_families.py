"""Promises of every family of environments, on real simulators."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch

from replastic import envs
from replastic.envs import Replay, Step
from support.simulators import EXAMPLES, params, some_actions

every = pytest.mark.parametrize("spec", params())
COPIES, STEPS = 2, 30


def same(a: Step, b: Step) -> bool:
    pairs = zip(vars(a).values(), vars(b).values(), strict=True)
    return all(torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def test_every_family_has_examples() -> None:
    assert set(EXAMPLES) == set(envs.names())
    assert all(spec.startswith(f"{family}/") for family, specs in EXAMPLES.items() for spec in specs)


@every
def test_it_shows_and_takes_what_it_says(spec: str) -> None:
    family = envs.from_spec(spec)
    with closing(family.make(COPIES, 0)) as environment:
        space = environment.observation
        for actions in some_actions(environment, STEPS):
            step = environment.step(actions)
            assert step.observations.shape == (COPIES, *space.shape)
            assert step.observations.dtype == space.dtype
            assert step.final.shape == (int(step.ended.sum()), *space.shape)
            assert step.rewards.dtype == step.raw_rewards.dtype == torch.float32
            assert step.terminated.dtype == step.ended.dtype == torch.bool
            assert (
                step.rewards.shape == step.raw_rewards.shape == step.ended.shape == step.terminated.shape == (COPIES,)
            )
            assert len(step.episodes) == int(step.ended.sum())
            if space.dtype.is_floating_point:
                assert bool(step.observations.isfinite().all())


@every
def test_its_name_is_read_as_itself(spec: str) -> None:
    family = envs.from_spec(spec)
    assert envs.from_spec(family.spec) == family
    assert family.game in type(family).games()
    facts = family.facts()
    assert facts["environment"] == family.spec
    assert all(facts[f"version_{package}"] for package in family.packages)


@every
def test_a_seed_decides_everything_and_copies_do_not_disturb_each_other(spec: str) -> None:
    family = envs.from_spec(spec)
    with (
        closing(family.make(COPIES, 3)) as one,
        closing(family.make(COPIES, 8)) as two,
        closing(family.make(1, 3)) as alone,
    ):
        two.reset(3)
        assert torch.equal(one.observations, two.observations)
        for actions in some_actions(one, STEPS):
            torch.manual_seed(0)
            kept = one.observations.clone()
            first, seen = one.step(actions), one.observations
            assert same(first, two.step(actions))
            assert torch.equal(alone.step(actions[:1]).observations[0], first.observations[0])
            assert torch.equal(seen, first.observations)
            assert kept.shape == seen.shape


@every
def test_observations_never_change_afterwards(spec: str) -> None:
    with closing(envs.from_spec(spec).make(COPIES, 1)) as environment:
        given = [environment.observations]
        copies = [environment.observations.clone()]
        for actions in some_actions(environment, STEPS):
            step = environment.step(actions)
            given += [step.observations, step.final]
            copies += [step.observations.clone(), step.final.clone()]
        assert all(torch.equal(a, b) for a, b in zip(given, copies, strict=True))


@every
def test_a_restored_environment_goes_on_as_it_says(spec: str) -> None:
    family = envs.from_spec(spec)
    with closing(family.make(COPIES, 3)) as environment, closing(family.make(COPIES, 99)) as other:
        actions = some_actions(environment, 3 * STEPS)
        for chosen in actions[:STEPS]:
            environment.step(chosen)
        state = {name: value.clone() for name, value in environment.state_dict().items()}
        for chosen in actions[STEPS : STEPS + 9]:
            other.step(chosen)
        other.load_state_dict(state)
        if not environment.exact:
            assert "new episode" in environment.resumes
            again = family.make(COPIES, 0)
            again.load_state_dict(state)
            assert torch.equal(again.observations, other.observations)
            again.close()
            return
        assert environment.resumes == "exactly"
        assert torch.equal(other.observations, environment.observations)
        for number, chosen in enumerate(actions[STEPS:]):
            assert same(environment.step(chosen), other.step(chosen)), f"step {number}"


@every
def test_its_replay_gives_back_what_was_seen(spec: str) -> None:
    with closing(envs.from_spec(spec).make(COPIES, 5)) as environment:
        replay = Replay(4000, COPIES, environment.observation, environment.action)
        replay.begin(environment.observations)
        seen, followed = [], []
        for actions in some_actions(environment, STEPS):
            seen.append(environment.observations)
            step = environment.step(actions)
            followed.append(step.next_observations())
            replay.add(actions, step)
        batch = replay.take(torch.arange(len(replay)))
        assert torch.equal(batch.observations, torch.stack(seen).transpose(0, 1).flatten(0, 1))
        assert torch.equal(batch.next_observations, torch.stack(followed).transpose(0, 1).flatten(0, 1))
