"""What the SAC learner is measured against: one file of plain torch, as CleanRL writes its agents."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn, optim
from torch.nn import functional

from replastic import networks
from replastic.networks import Network
from replastic.networks._policies import policy

LEAST, MOST = -10.0, 2.0


class Statistics:
    """Mean and variance of a stream, in NumPy, as Gymnasium's wrapper keeps them."""

    def __init__(self, width: int) -> None:
        self.mean, self.variance, self.count = np.zeros(width), np.ones(width), 1e-4

    def update(self, seen: np.ndarray[Any, Any]) -> None:
        """Count a batch."""
        mean, variance, count = seen.mean(0), seen.var(0), len(seen)
        apart, total = mean - self.mean, self.count + count
        squares = self.variance * self.count + variance * count + apart**2 * self.count * count / total
        self.mean, self.variance, self.count = self.mean + apart * count / total, squares / total, total

    def __call__(self, seen: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Normalised observations."""
        found: np.ndarray[Any, Any] = ((seen - self.mean) / np.sqrt(self.variance + 1e-8)).astype(np.float32)
        return found


class Buffer:
    """Transitions in NumPy arrays, drawn by index."""

    def __init__(self, capacity: int, observation: int, action: int) -> None:
        self.seen, self.then = (np.zeros((capacity, observation), np.float32) for _ in range(2))
        self.actions = np.zeros((capacity, action), np.float32)
        self.rewards, self.terminated = np.zeros(capacity, np.float32), np.zeros(capacity, np.float32)
        self.size, self.capacity = 0, capacity

    def add(self, seen: Any, then: Any, action: Any, reward: float, terminated: bool) -> None:
        """Add one transition."""
        place = self.size % self.capacity
        self.seen[place], self.then[place], self.actions[place] = seen, then, action
        self.rewards[place], self.terminated[place] = reward, terminated
        self.size += 1

    def sample(self, count: int) -> tuple[np.ndarray[Any, Any], ...]:
        """Transitions drawn with replacement."""
        index = np.random.randint(min(self.size, self.capacity), size=count)
        return self.seen[index], self.then[index], self.actions[index], self.rewards[index], self.terminated[index]


class PlainSac:
    """SAC with two critics: rsample from torch.distributions, AdamW as torch makes it, targets moved in a loop.

    As in CleanRL the critics learn first, and every second update makes two steps of actor and temperature, for which
    the actor runs once more.
    """

    def __init__(self, environment: Any, actor: Network, critic: Network, batch: int) -> None:
        self.environment, self.batch = environment, batch
        width, actions = environment.observation.shape[0], environment.action.shape[0]
        self.actor = policy(actor, (width,), actions, 0)
        self.critics = [networks.build(critic, (width + actions,), 1, seed) for seed in (1, 2)]
        self.targets = copy.deepcopy(self.critics)
        self.log_alpha = torch.full((1,), np.log(0.01), dtype=torch.float32, requires_grad=True)
        both = [p for network in self.critics for p in network.parameters()]
        self.critic_optimizer = optim.AdamW(both, lr=1e-4, weight_decay=0.01)
        self.actor_optimizer = optim.AdamW(self.actor.parameters(), lr=1e-4, weight_decay=0.01)
        self.alpha_optimizer = optim.Adam([self.log_alpha], lr=1e-4)
        self.alpha, self.aim, self.updates = 0.01, -0.5 * actions, 0
        self.statistics, self.buffer = Statistics(width), Buffer(100_000, width, actions)
        self.seen = environment.reset(0).numpy()

    def act(self, *, at_random: bool = False) -> None:
        """One interaction."""
        if at_random:
            actions = 2 * np.random.rand(1, *self.environment.action.shape).astype(np.float32) - 1
        else:
            with torch.no_grad():
                actions = self.drawn(torch.tensor(self.statistics(self.seen)))[0].numpy()
        step = self.environment.step(torch.tensor(actions))
        then, terminated = step.next_observations().numpy(), bool(step.terminated)
        self.buffer.add(self.seen[0], then[0], actions[0], float(step.rewards), terminated)
        self.seen = step.observations.numpy()
        self.statistics.update(self.seen)

    def drawn(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Actions and their log densities."""
        mean, raw = self.actor(seen).chunk(2, -1)
        normal = torch.distributions.Normal(mean, (LEAST + 0.5 * (MOST - LEAST) * (torch.tanh(raw) + 1)).exp())
        u = normal.rsample()
        actions = torch.tanh(u)
        density = normal.log_prob(u) - torch.log(1 - actions.pow(2) + 1e-6)
        return actions, density.sum(1)

    def update(self) -> None:
        """One update of the critics; every second time two of the actor and the temperature."""
        seen, then, actions, rewards, terminated = self.buffer.sample(self.batch)
        now, after = torch.tensor(self.statistics(seen)), torch.tensor(self.statistics(then))
        with torch.no_grad():
            following, density = self.drawn(after)
            first, second = (target(torch.cat([after, following], 1)).view(-1) for target in self.targets)
            ahead = torch.min(first, second) - self.alpha * density
            goals = torch.tensor(rewards) + (1 - torch.tensor(terminated)) * 0.99 * ahead
        pair = torch.cat([now, torch.tensor(actions)], 1)
        loss = torch.stack([functional.mse_loss(critic(pair).view(-1), goals) for critic in self.critics]).sum()
        self.step(self.critic_optimizer, loss)
        if self.updates % 2 == 0:
            for _ in range(2):
                self.improve(now)
        for critic, target in zip(self.critics, self.targets, strict=True):
            follow(critic, target)
        self.updates += 1

    def improve(self, now: torch.Tensor) -> None:
        """One step of the actor and of the temperature."""
        actions, density = self.drawn(now)
        first, second = (critic(torch.cat([now, actions], 1)).view(-1) for critic in self.critics)
        self.step(self.actor_optimizer, (self.alpha * density - torch.min(first, second)).mean())
        with torch.no_grad():
            density = self.drawn(now)[1]
        self.step(self.alpha_optimizer, (-self.log_alpha.exp() * (density + self.aim)).mean())
        self.alpha = self.log_alpha.exp().item()

    @staticmethod
    def step(optimizer: optim.Optimizer, loss: torch.Tensor) -> None:
        """Differentiate and step."""
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


def follow(network: nn.Module, target: nn.Module) -> None:
    """Move the target by .005."""
    for fast, slow in zip(network.parameters(), target.parameters(), strict=True):
        slow.data.copy_(0.005 * fast.data + 0.995 * slow.data)
