"""Environment steps plus updates of DQN a second, beside a plain loop of one file in the manner of CleanRL.

Both loops play MinAtar with the same network, step size, batches, target network, exploration and replay ratio, on one
thread and in turn. The plain loop asks the game itself, keeps observations and their successors in arrays as the usual
replay does, draws by numpy and steps torch's Adam. A round is a number of agent interactions with their updates, after
the warm-up. Where an update takes most of the time, the two cannot differ by much: the row "share of an update" says
how much of our own time it is. Ours takes denormal numbers as zero, as every run does: on MinAtar most inputs are zero,
so that Adam's moments become such numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from measure import Row, command_line, in_turn, publish, ratio
from torch.nn import functional

from replastic import benchmarks, methods, networks
from replastic.denormals import flushed
from replastic.envs.minatar import game_class
from replastic.learners.dqn import Dqn
from replastic.training.session import Session

SUMMARY = "steps plus updates of DQN a second, ours beside a plain loop"


class Plain:
    """The plain loop on one game."""

    def __init__(self, task: Dqn, learning_rate: float, batch: int) -> None:
        self.task, self.batch = task, batch
        self.game = game_class(task.environment.partition("/")[2].partition(":")[0])(ramping=True)
        self.rng = np.random.default_rng(0)
        self.game.random = np.random.RandomState(0)
        self.game.reset()
        self.last = 0
        self.seen = self.observe()
        shape = self.seen.shape
        self.model = networks.build(task.network, shape, 6, 0)
        self.target = networks.build(task.network, shape, 6, 0)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=learning_rate, eps=task.adam_eps)
        self.observations = np.zeros((task.buffer_size, *shape), np.float32)
        self.next_observations = np.zeros((task.buffer_size, *shape), np.float32)
        self.actions = np.zeros(task.buffer_size, np.int64)
        self.rewards = np.zeros(task.buffer_size, np.float32)
        self.dones = np.zeros(task.buffer_size, np.float32)
        self.steps, self.updates = 0, 0

    def observe(self) -> np.ndarray:
        """(channels, height, width) float32."""
        return self.game.state().transpose(2, 0, 1).astype(np.float32)

    def act(self) -> None:
        """One interaction."""
        task = self.task
        share = min(1.0, max(0, self.steps - task.learning_starts) / task.epsilon_steps)
        if self.rng.random() < task.first_epsilon + share * (task.epsilon - task.first_epsilon):
            action = int(self.rng.integers(6))
        else:
            with torch.no_grad():
                action = int(self.model(torch.from_numpy(self.seen)[None]).argmax(1))
        if self.rng.random() >= 0.1:
            self.last = action
        reward, done = self.game.act(self.last)
        follows, at = self.observe(), self.steps % task.buffer_size
        self.observations[at], self.next_observations[at] = self.seen, follows
        self.actions[at], self.rewards[at], self.dones[at] = action, reward, done
        if done:
            self.game.reset()
            follows = self.observe()
        self.seen = follows
        self.steps += 1

    def update(self) -> None:
        """One update, and now and then a copy to the target network."""
        index = self.rng.integers(min(self.steps, self.task.buffer_size), size=self.batch)
        seen, follows = torch.tensor(self.observations[index]), torch.tensor(self.next_observations[index])
        actions, rewards = torch.tensor(self.actions[index]), torch.tensor(self.rewards[index])
        with torch.no_grad():
            goals = rewards + self.task.gamma * self.target(follows).amax(1) * (1 - torch.tensor(self.dones[index]))
        values = self.model(seen).gather(1, actions[:, None])[:, 0]
        loss = functional.smooth_l1_loss(values, goals)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.updates += 1
        if self.updates % self.task.target_every == 0:
            self.target.load_state_dict(self.model.state_dict())

    def go(self, interactions: int) -> None:
        """So many interactions, each with its share of updates."""
        for _ in range(interactions):
            self.act()
            while self.updates < (self.steps - self.task.learning_starts) * self.task.replay_ratio:
                self.update()


class Ours:
    """The library on the same task."""

    def __init__(self, task: Dqn) -> None:
        spec = benchmarks.get("minatar_priming")().presets["small"].protocol
        self.session = Session(replace(spec, task=task), task.open(), methods.from_spec("base"), 0)
        self.session.begin(0)
        self.session.model.train()
        self.session.learner.begin(0, 0)
        self.task = task

    def go(self, interactions: int) -> None:
        """So many interactions, each with its share of updates; as the training loop makes them."""
        with flushed():
            for _ in range(int(interactions * self.task.replay_ratio)):
                self.session.update(1, 1)


def task_of(ratio_: float, interactions: int) -> Dqn:
    """The benchmark's task without priming, and long enough."""
    made = benchmarks.get("minatar_priming")().presets["small"].protocol.task
    assert isinstance(made, Dqn)
    return replace(made, priming=0, replay_ratio=ratio_, steps=made.learning_starts + 100 * interactions)


def updates_alone(plain: Plain, updates: int) -> None:
    """Passes and steps of torch on batches of the game, with nothing around: the part that no loop can save."""
    batch = torch.tensor(plain.observations[: plain.batch])
    with flushed():
        for _ in range(updates):
            with torch.no_grad():
                goals = plain.target(batch).amax(1)
            loss: torch.Tensor = functional.smooth_l1_loss(plain.model(batch)[:, 0], goals)
            plain.optimizer.zero_grad()
            loss.backward()
            plain.optimizer.step()


def rows_of(replay_ratio: float, interactions: int, repeats: int) -> list[Row]:
    """Steps plus updates a second of both loops, and the ratio between them."""
    task = task_of(replay_ratio, interactions)
    plain, alone, ours = Plain(task, 3e-4, 32), Plain(task, 3e-4, 32), Ours(task)
    for loop in (plain, alone):
        for _ in range(task.learning_starts):
            loop.act()
    ours.session.update(1, 1)
    loops: dict[str, Callable[[], None]] = {
        "plain": lambda: plain.go(interactions),
        "ours": lambda: ours.go(interactions),
        "updates alone": lambda: updates_alone(alone, int(interactions * replay_ratio)),
    }
    seconds = in_turn(loops, repeats, lambda: None)
    done = interactions * (1 + replay_ratio)
    what = f"DQN on MinAtar, replay ratio {replay_ratio:g}"
    rows = [Row(what, name, done / min(seconds[name]), "steps and updates/s") for name in ("plain", "ours")]
    rows.append(Row(what, "ours over plain", ratio(seconds["plain"], seconds["ours"]), "x"))
    share = ratio(seconds["updates alone"], seconds["ours"])
    rows.append(Row(what, "share of an update", share, "of our time", note="torch's passes and Adam alone"))
    return rows


def main() -> None:
    """Measure and print."""
    parser = command_line(SUMMARY)
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 1.0], help="updates per interaction")
    parser.add_argument("--interactions", type=int, default=1000, help="of a round")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row for one in options.ratios for row in rows_of(one, options.interactions, options.repeats)]
    publish("Updates of DQN beside a plain loop", rows, options.json, interactions=options.interactions)


if __name__ == "__main__":
    main()
