"""PPO beside stable-baselines3: advantages of its rollout, and the step that its loss makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from replastic.learners import Trainer
from replastic.learners._advantages import advantages
from replastic.learners.ppo import Played, Ppo
from replastic.methods import Method
from replastic.networks.mlp import Mlp
from replastic.training import Protocol
from replastic.training.session import Session

gymnasium = pytest.importorskip("gymnasium", reason="needs gymnasium: pip install 'replastic[rl]'")
sb3 = pytest.importorskip("stable_baselines3", reason="needs stable-baselines3")

pytestmark = pytest.mark.integration
STEPS, COPIES, RATE = 32, 2, 0.05
PAIRS = {"policy": ("policy_net", "action_net"), "value": ("value_net", "value_net")}


@pytest.fixture(params=["CartPole-v1", "Pendulum-v1"])
def theirs(request):
    """An agent of theirs after one rollout, with plain gradient descent as its optimizer."""
    agent = sb3.PPO(
        "MlpPolicy",
        sb3.common.env_util.make_vec_env(request.param, n_envs=COPIES, seed=1),
        n_steps=STEPS,
        batch_size=STEPS * COPIES,
        n_epochs=1,
        learning_rate=RATE,
        ent_coef=0.01,
        max_grad_norm=1e9,
        seed=3,
        policy_kwargs={"net_arch": [8, 8], "optimizer_class": torch.optim.SGD, "optimizer_kwargs": {}},
        device="cpu",
    )
    agent._setup_learn(STEPS * COPIES, None)
    agent.collect_rollouts(agent.env, _quiet(agent), agent.rollout_buffer, n_rollout_steps=STEPS)
    return request.param, agent


def _quiet(agent):
    """Their loop asks for a callback."""
    callback = _Quiet()
    callback.init_callback(agent)
    return callback


class _Quiet(sb3.common.callbacks.BaseCallback):
    """It does nothing."""

    def _on_step(self) -> bool:
        return True


def ours(game: str, agent) -> object:
    """Our agent with their weights."""
    task = Ppo(environment=f"gym/{game}", copies=COPIES, horizon=STEPS, network=Mlp(hidden=(8, 8), activation="tanh"))
    mine = task.learner(task.open(), 0, Trainer(batch_size=STEPS * COPIES))
    there = agent.policy
    with torch.no_grad():
        for name, (body, head) in PAIRS.items():
            hidden = getattr(there.mlp_extractor, body)
            network = getattr(mine.model, name)
            for layer, source in (
                ("hidden1.linear", hidden[0]),
                ("hidden2.linear", hidden[2]),
                ("head", getattr(there, head)),
            ):
                target = network.get_submodule(layer)
                target.weight.copy_(source.weight)
                target.bias.copy_(source.bias)
        if mine.model.log_std is not None:
            mine.model.log_std.copy_(there.log_std)
    return mine


def test_advantages_are_those_of_their_rollout(theirs) -> None:
    _, agent = theirs
    held = agent.rollout_buffer
    last = torch.from_numpy(agent._last_episode_starts.astype(bool))
    starts = torch.from_numpy(held.episode_starts.astype(bool))
    ended = torch.cat((starts[1:], last[None]))
    values = torch.from_numpy(held.values)
    with torch.no_grad():
        final = agent.policy.predict_values(agent.policy.obs_to_tensor(agent._last_obs)[0]).flatten()
    follows = torch.cat((values[1:], final[None]))
    # they add the value of what follows an episode that was cut off to its last reward, so that it counts as over here
    found = advantages(torch.from_numpy(held.rewards), values, follows, ended, ended, gamma=0.99, trace=0.95)
    np.testing.assert_allclose(found.numpy(), held.advantages, rtol=1e-4, atol=1e-4)


def test_a_step_on_our_loss_is_their_step(theirs) -> None:
    game, agent = theirs
    mine = ours(game, agent)
    held = agent.rollout_buffer
    discrete = mine.games.action.discrete

    def flat(array) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).flatten(0, 1)

    actions = flat(held.actions)
    batch = Played(
        flat(held.observations),
        actions.flatten().long() if discrete else actions.float(),
        flat(held.log_probs),
        flat(held.advantages),
        flat(held.returns),
    )
    outputs, values = mine.model(batch.observations)[:, :-1], mine.model(batch.observations)[:, -1]
    found, _ = mine.policy.judged(outputs, batch.actions)
    torch.testing.assert_close(found.detach(), batch.log_probabilities, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values.detach(), flat(held.values), rtol=1e-4, atol=1e-5)
    mine.loss(mine.model, batch).backward()
    agent.train()
    for name, (body, head) in PAIRS.items():
        hidden = getattr(agent.policy.mlp_extractor, body)
        for layer, after in (
            ("hidden1.linear", hidden[0]),
            ("hidden2.linear", hidden[2]),
            ("head", getattr(agent.policy, head)),
        ):
            weight = getattr(mine.model, name).get_submodule(layer).weight
            torch.testing.assert_close(
                weight.detach() - RATE * weight.grad, after.weight.detach(), rtol=1e-4, atol=1e-5
            )


@pytest.mark.slow
def test_it_learns_cartpole() -> None:
    """After 40,000 steps it balances the pole for most of the 500 steps of an episode."""
    task = Ppo(steps=40_960, interventions=(), evaluations=1, episodes=20, longest=500)
    trainer = Trainer(learning_rate=1e-3, batch_size=64, warmup=0.0)
    with Session(Protocol(task=task, trainer=trainer), task.open(), Method(), 1, "cpu") as session:
        session.begin(0)
        session.learner.begin(0, 0)
        session.model.train()
        first = session.learner.evaluate(0)["metric/return"]
        for step in range(session.learner.extent(0).updates):
            session.update(step, 10_000)
        assert session.learner.evaluate(0)["metric/return"] > max(400, first)
