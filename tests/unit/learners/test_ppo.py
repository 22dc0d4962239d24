"""PPO: what it plays, one update against plain torch, phases and shifted levels, going on, every method."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch.distributions import Categorical, Normal

from replastic import methods
from replastic.envs import Shifted
from replastic.errors import UserError
from replastic.experiments.spec import SPECIAL
from replastic.learners import Trainer
from replastic.learners._advantages import advantages
from replastic.learners._policies import policy_of
from replastic.learners.ppo import Ppo
from replastic.methods import Method, from_spec
from replastic.networks.mlp import Mlp
from replastic.records import RunDirectory
from replastic.training import Protocol, train
from replastic.training.session import Session
from support.small_runs import content
from support.toy_games import AimFamily, Toy, aims, games

TASK = Ppo(
    environment="toy/corridor",
    steps=48,
    interventions=(0.5,),
    copies=2,
    horizon=6,
    epochs=2,
    evaluations=4,
    episodes=2,
    longest=10,
    network=Mlp(hidden=(8, 8)),
)
AIM = replace(TASK, environment="aim/aim")
TRAINER = Trainer(batch_size=6, learning_rate=1e-2, warmup=0.0, clip_norm=0.0, save_seconds=0.0)


@pytest.fixture(params=["corridor", "aim"])
def agent(request):
    task, source = (TASK, games()) if request.param == "corridor" else (AIM, aims())
    return task.learner(source, 3, TRAINER)


def distribution(agent, observations):
    """The policy as torch's own distribution, and the values."""
    observations = observations.float()
    outputs, values = agent.model.policy(observations), agent.model.value(observations)[:, 0]
    if agent.games.action.discrete:
        return Categorical(logits=outputs), values
    return Normal(outputs, agent.model.log_std.exp()), values


def log_probabilities(policy, actions):
    found = policy.log_prob(actions)
    return found if found.dim() == 1 else found.sum(1)


def test_what_was_played_has_the_probabilities_advantages_and_returns_of_its_steps(agent):
    environment = agent._made(0)
    observations, steps, played = [], [], agent._play(agent.environment, 6)
    actions = played.actions.view(6, 2, *played.actions.shape[1:])
    for row in actions:
        observations.append(environment.observations)
        steps.append(environment.step(row))
    torch.testing.assert_close(played.observations, torch.cat(observations), rtol=0, atol=0)
    policy, values = distribution(agent, played.observations)
    torch.testing.assert_close(played.log_probabilities, log_probabilities(policy, played.actions))
    _, follows = distribution(agent, torch.cat([step.next_observations() for step in steps]))
    better = advantages(
        torch.stack([step.rewards for step in steps]),
        *(of.detach().view(6, 2) for of in (values, follows)),
        torch.stack([step.terminated for step in steps]),
        torch.stack([step.ended for step in steps]),
        gamma=0.99,
        trace=0.95,
    )
    torch.testing.assert_close(played.advantages, better.flatten())
    torch.testing.assert_close(played.returns, better.flatten() + values.detach())
    assert any(step.ended.any() for step in steps), "an episode ended, so that the case is met"


def test_an_update_is_that_of_plain_torch(agent):
    with Session(Protocol(task=agent.task, trainer=TRAINER), agent.games, Method(), 3, "cpu") as session:
        learner = session.learner
        session.begin(0)
        learner.begin(0, 0)
        session.model.train()
        learner._played_steps = learner._play(learner.environment, 6)
        learner._order = learner._orders(learner.interactions)
        twin = deepcopy(learner)
        plain = torch.optim.Adam(twin.model.parameters(), lr=1e-2)
        for step in range(4):
            batch = learner._played_steps.take(learner._order[0])
            found = session.update(step, 100)
            policy, values = distribution(twin, batch.observations)
            better = (batch.advantages - batch.advantages.mean()) / (batch.advantages.std() + 1e-8)
            ratio = (log_probabilities(policy, batch.actions) - batch.log_probabilities).exp()
            gain = torch.min(ratio * better, torch.clamp(ratio, 0.8, 1.2) * better).mean()
            entropy = policy.entropy() if agent.games.action.discrete else policy.entropy().sum(1)
            loss = 0.5 * (values - batch.returns).square().mean() - gain - 0.01 * entropy.mean()
            plain.zero_grad()
            loss.backward()
            plain.step()
            torch.testing.assert_close(found, loss.detach(), rtol=1e-5, atol=1e-6)
        for mine, theirs in zip(learner.model.parameters(), twin.model.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_ratio_beyond_the_bound_gives_no_gradient_where_that_would_help():
    agent = TASK.learner(games(), 3, TRAINER)
    batch = agent._play(agent.environment, 6)
    policy, _ = distribution(agent, batch.observations)
    now = policy.log_prob(batch.actions).detach()
    task = replace(TASK, entropy=0.0, value_weight=1e-30)
    agent.task = task
    for factor, sign, moves in ((2.0, 1, False), (2.0, -1, True), (0.5, 1, True), (0.5, -1, False)):
        gains = sign * torch.tensor([1.0, 3.0]).repeat(6)
        wanted = batch._replace(advantages=gains, log_probabilities=now - math.log(factor))
        agent.model.zero_grad()
        normal = (gains - gains.mean()) / gains.std()
        chosen = wanted.take((normal * sign > 0).nonzero()[:, 0][:1])
        agent.loss(agent.model, chosen._replace(advantages=torch.tensor([float(sign)]))).backward()
        norm = sum(float(p.grad.abs().sum()) for p in agent.model.policy.parameters())
        assert (norm > 1e-6) == moves


def test_numbers_that_are_even_give_actions_with_the_policys_frequencies():
    agent = TASK.learner(games(), 3, TRAINER)
    logits = torch.tensor([[1.0, 0.0, -2.0]])
    numbers = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    actions, found = agent.policy.drawn(logits.expand(10_000, 3), numbers)
    shares = torch.bincount(actions, minlength=3) / 10_000
    torch.testing.assert_close(shares, logits.softmax(1)[0], atol=2e-4, rtol=0)
    torch.testing.assert_close(found, Categorical(logits=logits).log_prob(actions))
    normal = policy_of(aims().action)
    outputs = torch.tensor([[0.5, -1.0, math.log(2.0), 0.0]]).expand(10_000, 4)
    values, _ = normal.drawn(outputs, numbers[:, None].expand(10_000, 2).reshape(-1))
    assert values.mean(0).tolist() == pytest.approx([0.5, -1.0], abs=1e-3)
    assert values.std(0).tolist() == pytest.approx([2.0, 1.0], rel=2e-3)
    assert normal.mode(outputs)[0].tolist() == [0.5, -1.0]


def test_every_step_is_used_once_in_every_epoch():
    agent = replace(TASK, horizon=7).learner(games(), 3, TRAINER)
    order = agent._orders(14)
    assert [len(places) for places in order] == [5, 5, 4] * 2
    assert all(torch.cat(order[i : i + 3]).sort().values.tolist() == list(range(14)) for i in (0, 3))
    assert agent.updates_of_round == 6


def test_phases_are_whole_rounds_and_evaluations_lie_at_their_ends():
    agent = TASK.learner(games(), 3, TRAINER)
    assert [agent.extent(phase).updates for phase in range(TASK.phases)] == [8, 8]
    assert agent.extent(0).marks == (4, 8)
    uneven = replace(TASK, interventions=(0.4,))
    assert [uneven.rounds_of(phase) for phase in range(2)] == [1, 3]
    with pytest.raises(UserError, match=r"copies x horizon = 12 interactions: raise steps"):
        replace(TASK, interventions=(0.1,))


def test_levels_show_the_same_game_with_another_offset_each():
    task = replace(AIM, levels=3, shift=2.0, interventions=())
    agent = task.learner(aims(3), 3, TRAINER)
    assert (task.phases, task.stages) == (3, ("aim/aim",) * 3)
    offsets = []
    for level in range(3):
        plain, seen = replace(task, shift=0.0).learner(aims(3), 3, TRAINER)._made(level), agent._made(level)
        assert isinstance(seen, Shifted) == (level > 0)
        offsets.append((seen.observations - plain.observations)[0])
        actions = torch.zeros(2, 2)
        for _ in range(6):
            moved, still = seen.step(actions), plain.step(actions)
            torch.testing.assert_close(moved.observations - still.observations, offsets[-1].expand(2, 2))
            torch.testing.assert_close(moved.final - still.final, offsets[-1].expand(len(still.final), 2))
            torch.testing.assert_close(moved.rewards, still.rewards)
        judge = next(iter(agent._played(level)))
        assert judge.observations.shape == (2, 2)
    assert offsets[0].tolist() == [0, 0]
    assert not torch.equal(offsets[1], offsets[2])
    again = task.learner(aims(3), 3, TRAINER)._made(1).observations
    assert torch.equal(again, task.learner(aims(3), 3, TRAINER)._made(1).observations)
    assert not torch.equal(again, task.learner(aims(3), 4, TRAINER)._made(1).observations)


def test_offsets_have_the_spread_that_was_asked_for():
    task = replace(AIM, levels=2, shift=2.0, interventions=())
    moved = []
    for seed in range(300):
        made = AimFamily(game="aim").make(1, 0)
        seen = task.learner(aims(2), seed, TRAINER)._shifted(made, 1)
        moved.append((seen.observations - made.observations)[0])
    assert float(torch.cat(moved).std()) == pytest.approx(2.0, rel=0.1)  # standard error 2.9%


def test_maps_of_objects_cannot_be_shifted():
    with pytest.raises(UserError, match=r"toy/corridor shows torch\.bool"):
        Shifted(Toy(game="corridor").make(1, 0), torch.zeros(2, 5, 5))


def run(path, *, stop_at=99.0, task=TASK, source=None, method="base"):
    class Stop(Exception):
        pass

    def progress(phases):
        if phases >= stop_at:
            raise Stop

    directory = RunDirectory(path)
    try:
        one = Protocol(task=task, trainer=TRAINER, metrics=("dormant", "feature_srank", "dfi"), probe_samples=16)
        train(one, source or games(), from_spec(method), 3, directory, progress=progress)
    except Stop:
        assert not directory.done
    return content(directory)


@pytest.mark.parametrize("stop_at", [0.5, 1.0])
@pytest.mark.parametrize("shifted", [False, True])
def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, stop_at, shifted):
    task = replace(AIM, levels=2, shift=2.0, interventions=()) if shifted else TASK
    source = aims(2) if shifted else games()
    whole = run(tmp_path / "whole", task=task, source=source)
    run(tmp_path / "stopped", stop_at=stop_at, task=task, source=source)
    assert run(tmp_path / "stopped", task=task, source=source) == whole
    assert whole[-1]["interactions"] == 48 * len(source.families)
    assert {"metric/return", "metric/training_return", "metric/dormant"} <= whole[-1].keys()


def test_an_evaluation_leaves_no_trace(agent):
    before = agent.state_dict()
    assert agent.evaluate(0) == agent.evaluate(0)
    agent.probe(0, 5)
    after = agent.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_probe_is_always_the_same_and_a_pass_holds_every_step(agent):
    first, again = agent.probe(1, 5), agent.probe(1, 5)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert len(first.actions) == 5
    agent._played_steps = agent._play(agent.environment, 6)
    passed = list(agent.batches(0))
    assert [len(batch.actions) for batch in passed] == [6, 6]
    known = agent._played_steps.returns.sort().values
    assert torch.equal(torch.cat([batch.returns for batch in passed]).sort().values, known)


METHODS = [name for name in methods.names() if not methods.get(name).needs & SPECIAL]


@pytest.mark.parametrize("method", ["base", "full_reset", "fire", "head_reset", "trac"])
def test_methods_work_with_it(tmp_path, method):
    assert run(tmp_path, method=method)[-1]["interactions"] == 48


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_works_with_it(tmp_path, method):
    task = replace(AIM, network=Mlp(hidden=(8, 8), norm="layer"))
    assert run(tmp_path, task=task, source=aims(), method=method)[-1]["interactions"] == 48


@pytest.mark.slow
def test_it_learns_to_reach_the_edge_and_to_aim():
    for task, source, least in ((TASK, games(), 0.95), (AIM, aims(), -1.0)):
        one = replace(task, steps=6_000, horizon=32, copies=8, interventions=(), epochs=6, episodes=30, evaluations=1)
        with Session(
            Protocol(task=one, trainer=replace(TRAINER, batch_size=64, learning_rate=5e-3)), source, Method(), 0, "cpu"
        ) as session:
            before = session.learner.evaluate(0)["metric/return"]
            session.begin(0)
            session.learner.begin(0, 0)
            session.model.train()
            for step in range(session.learner.extent(0).updates):
                session.update(step, 10_000)
            assert session.learner.evaluate(0)["metric/return"] > max(least, before)
