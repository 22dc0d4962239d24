"""SAC by hand: one update in float64, losses and their gradients."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from replastic.envs import Transitions
from replastic.learners.sac import SacAgent
from replastic.training.session import Session
from support.sac_runs import TASK, agent_of, session


def transitions(count: int = 5, seed: int = 0) -> Transitions:
    draw = torch.Generator().manual_seed(seed)
    seen, then = torch.randn(2, count, 3, generator=draw, dtype=torch.float64)
    actions = 2 * torch.rand(count, 2, generator=draw, dtype=torch.float64) - 1
    rewards = torch.randn(count, generator=draw, dtype=torch.float64)
    return Transitions(seen, actions, rewards, then, torch.arange(count) % 3 == 1)


class ByHand:
    """One SAC update in float64: torch.distributions, separate critics, AdamW as its paper writes it."""

    def __init__(self, agent: SacAgent, lr: float, decay: float) -> None:
        self.actor = copy.deepcopy(agent.model.actor)
        self.critics = [copy.deepcopy(q) for q in agent.model.critic.children()]
        self.targets = [copy.deepcopy(q) for q in agent.target_critic.children()]
        self.log_temperature = agent.log_temperature.detach().clone().requires_grad_()
        self.lr, self.decay, self.gamma, self.tau, self.aim = lr, decay, agent.gamma, agent.task.tau, -0.5 * 2
        self.moments: dict[int, tuple[Tensor, Tensor, int]] = {}

    def adam(self, parameters: list[Tensor], loss: Tensor) -> None:
        for p, g in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            m, v, t = self.moments.get(id(p), (torch.zeros_like(p), torch.zeros_like(p), 0))
            m, v, t = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g, t + 1
            self.moments[id(p)] = m, v, t
            with torch.no_grad():
                if p.dim() > 1:
                    p -= self.lr * self.decay * p
                p -= self.lr * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)

    def drawn(self, seen: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = self.actor(seen).chunk(2, 1)
        std = (-10 + 6 * (1 + raw.tanh())).exp()
        u = mean + std * noise
        volume = torch.distributions.TanhTransform().log_abs_det_jacobian(u, u.tanh())  # type: ignore[no-untyped-call]
        return u.tanh(), (torch.distributions.Normal(mean, std).log_prob(u) - volume).sum(1)

    def update(self, batch: Transitions, noise: Tensor) -> float:
        actions, density = self.drawn(batch.observations, noise[0])
        values = torch.stack([q(torch.cat((batch.observations, actions), 1))[:, 0] for q in self.critics])
        temperature = self.log_temperature.exp()
        loss = (temperature.detach() * density - values.min(0).values).mean()
        self.adam(list(self.actor.parameters()), loss)
        self.adam([self.log_temperature], temperature * (-density.mean().detach() - self.aim))
        with torch.no_grad():
            actions, density = self.drawn(batch.next_observations, noise[1])
            both = torch.cat((batch.next_observations, actions), 1)
            ahead = torch.stack([q(both)[:, 0] for q in self.targets]).min(0).values
            soft = ahead - self.log_temperature.exp() * density
            goals = batch.rewards + self.gamma * (~batch.terminated).double() * soft
        both = torch.cat((batch.observations, batch.actions), 1)
        error = sum((((q(both)[:, 0] - goals) ** 2).mean() for q in self.critics), torch.zeros(()))
        self.adam([p for q in self.critics for p in q.parameters()], error)
        with torch.no_grad():
            for q, target in zip(self.critics, self.targets, strict=True):
                for fast, slow in zip(q.parameters(), target.parameters(), strict=True):
                    slow.copy_(self.tau * fast + (1 - self.tau) * slow)
        return float(error.detach())


def in_float64(run: Session) -> SacAgent:
    agent = agent_of(run)
    agent.model.double()
    agent.copy_target()
    agent.log_temperature.data = agent.log_temperature.data.double()
    return agent


@pytest.mark.parametrize("double", [True, False])
def test_updates_equal_those_written_by_hand_in_float64(double: bool) -> None:
    task = replace(TASK, double=double, tau=0.2, temperature=0.5)
    with session(task) as run:
        run.begin(0)
        agent = in_float64(run)
        hand = ByHand(agent, 1e-3, 0.1)
        for number in range(6):
            batch, draw = transitions(seed=number), torch.Generator().manual_seed(number)
            noise = torch.randn(2, 5, 2, generator=draw, dtype=torch.float64)
            agent._noise = lambda _, noise=noise: noise  # type: ignore[assignment,misc]
            loss = agent.learn(batch, run.descent)
            assert float(loss) == pytest.approx(hand.update(batch, noise), rel=1e-9)
        pairs = [(agent.model.actor, hand.actor)]
        pairs += zip(agent.model.critic.children(), hand.critics, strict=True)
        pairs += zip(agent.target_critic.children(), hand.targets, strict=True)
        for mine, its in pairs:
            for one, other in zip(mine.parameters(), its.parameters(), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(agent.log_temperature, hand.log_temperature, rtol=1e-9, atol=0)
        assert not torch.equal(agent.log_temperature, torch.full((), math.log(0.5), dtype=torch.float64))


def test_the_gradient_of_the_loss_is_each_networks_own() -> None:
    """By finite differences: of the actor's loss for the actor, of the critics' for the critics, of none for both."""
    with session() as run:
        agent = in_float64(run)
        batch = transitions()
        model = agent.model
        drawn = torch.randn(20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        noises = agent._noises(drawn, 5)
        agent._noises = lambda *_: noises  # type: ignore[method-assign,assignment]
        agent.loss(model, batch).backward()
        goals = agent._goals(model, batch, noises[1])

        def actor_loss() -> float:
            return float(agent._actor_loss(model, batch, noises[0])[0].detach())

        def critic_loss() -> float:
            return float(agent._critic_loss(model, batch, goals).detach())

        for name, parameter in model.named_parameters():
            loss = actor_loss if name.startswith("actor.") else critic_loss
            assert parameter.grad is not None, name
            place = int(parameter.grad.abs().argmax())
            flat, step = parameter.data.view(-1), 1e-6
            flat[place] += step
            high = loss()
            flat[place] -= 2 * step
            low = loss()
            flat[place] += step
            slope = float(parameter.grad.view(-1)[place])
            assert (high - low) / (2 * step) == pytest.approx(slope, rel=1e-5, abs=1e-8), name


def test_an_optimizer_of_one_network_leaves_no_gradient_in_another() -> None:
    with session() as run:
        run.begin(0)
        agent = in_float64(run)
        noise = agent._noises(torch.randn(20, dtype=torch.float64), 5)[0]
        run.descent(lambda: [agent._actor_loss(agent.model, transitions(), noise)[0]], "actor")
        assert all(p.grad is None for p in agent.model.critic.parameters())
        assert all(p.grad is not None for p in agent.model.actor.parameters())
