"""Agents that learn from a replay: warm-up, replay ratio, priming, and batches for methods and measures."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from replastic.envs import Replay, ReplaySize, Transitions
from replastic.errors import UserError
from replastic.learners._agent import Agent, AgentTask
from replastic.learners._games import Draws, Games, evenly, values_of
from replastic.learners._learner import Descend, Extent
from replastic.learners._trainer import Trainer
from replastic.options import option
from replastic.records import key
from replastic.seeds import derive, generator

Q_MAGNITUDE = key("q_magnitude")
"""Record key of the mean |Q(s, a)| over transitions of the replay."""
PASS = 1000
"""Batches that methods get as one pass over the data: an agent has none of its own."""


@dataclass(frozen=True, kw_only=True)
class OffPolicyTask(AgentTask):
    """An agent that keeps transitions and makes updates on batches of them.

    With `priming` the first phase is one of updates alone: the agent acts at random for `learning_starts` interactions
    and then learns from these transitions and no others. It then goes on as usual.

    Reference: heavy priming is that of Nikishin et al. (2022), section 3.
    """

    learning_starts: int = option(1000, help="interactions at random before the first update", low=1)
    replay_ratio: float = option(1.0, help="updates per agent interaction", above=0)
    buffer_size: int = option(100_000, help="frames that the replay holds", low=1)
    priming: int = option(0, help="updates on the transitions of the warm-up before all others", low=0)
    restart: bool = option(
        False, help="act at random for learning_starts interactions in every environment, not in the first alone"
    )
    keep_replay: bool = option(True, help="keep the transitions of earlier environments; without it, restart as well")

    def validate(self) -> None:
        """Every phase has updates.

        Raises:
            UserError: The steps are no more than the warm-up, an intervention lies in it, or nothing would be learned.
        """
        super().validate()
        if self.steps <= self.learning_starts:
            raise UserError(
                f"{self.name}: a budget of {self.steps} steps is no longer than the warm-up of {self.learning_starts} "
                "interactions, so nothing would be learned: raise steps or lower learning_starts"
            )
        if not self.keep_replay and not self.restart:
            raise UserError(f"{self.name}: an empty replay must be filled before it is used: give restart with it")
        for phase in range(self.lead, self.phases):
            if self.updates_of(phase) < 1:
                stretch = self.stretch(phase)
                raise UserError(
                    f"{self.name}: no update would be made from interaction {stretch.first} to {stretch.last}: the "
                    f"warm-up ends at {self.learning_starts}, and an interaction has {self.replay_ratio:g} updates"
                )

    @property
    def lead(self) -> int:
        """The priming."""
        return 1 if self.priming else 0

    def warm(self, stage: int) -> int:
        """Interactions at random with which a stage begins."""
        return self.learning_starts if not stage or self.restart else 0

    def updates_by(self, stage: int, interactions: int) -> int:
        """Updates made in a stage when it has had so many interactions."""
        return max(0, math.floor((interactions - self.warm(stage)) * self.replay_ratio + 1e-9))

    def updates_of(self, phase: int) -> int:
        """Updates of a phase."""
        if phase < self.lead:
            return self.priming
        stage, first, last = self.stretch(phase)
        return self.updates_by(stage, last) - self.updates_by(stage, first)

    def due(self, stage: int, update: int) -> int:
        """Interactions in a stage that come before update number `update` (from 0) of that stage."""
        return self.warm(stage) + math.ceil((update + 1) / self.replay_ratio - 1e-9)

    def facts(self, source: Games) -> dict[str, Any]:
        """Also the replay's memory, and how often it is used: per interaction and per frame of the simulator."""
        size = ReplaySize(self.buffer_size, source.observation, source.action)
        ratio = {"updates per interaction": self.replay_ratio, "updates per frame": self.replay_ratio / source.frames}
        return {**super().facts(source), **ratio, "replay": str(size)}


class OffPolicyAgent(Agent):
    """Acts until an update is due, then learns from a batch of the replay."""

    task: OffPolicyTask

    def __init__(self, task: OffPolicyTask, games: Games, seed: int, trainer: Trainer, device: str) -> None:
        super().__init__(task, games, seed, trainer, device)
        self.updates = 0
        """Made so far, those of priming among them."""
        self._replay: Replay | None = None
        self._is_cut = True
        """Whether the replay has yet to hear of the observations that are acted on next."""
        self._phase, self._done = 0, 0
        self._picks = Draws(trainer.batch_size, seed, "replay")

    @abstractmethod
    def actions(self, observations: Tensor) -> Tensor:
        """Actions to train on, exploration included, on the CPU, one for each copy."""

    @abstractmethod
    def learn(self, batch: Transitions, descend: Descend) -> Tensor:
        """One update of the weights on a batch; the loss to record."""

    @property
    def replay_buffer(self) -> Replay:
        """The transitions; made when they are first asked for."""
        if self._replay is None:
            self._replay = Replay(self.task.buffer_size, self.task.copies, self.games.observation, self.games.action)
        return self._replay

    def extent(self, phase: int) -> Extent:
        """Updates between its interactions at the replay ratio; evaluated at even distances."""
        task, updates = self.task, self.task.updates_of(phase)
        stretch = task.stretch(phase)
        every = task.steps / task.evaluations
        at = [round(every * number) for number in range(1, task.evaluations + 1)]
        before = task.updates_by(stretch.stage, stretch.first)
        marks = {task.updates_by(stretch.stage, n) - before for n in at if stretch.first < n < stretch.last}
        return Extent(
            updates=updates,
            marks=(*sorted(mark for mark in marks if 0 < mark < updates), updates),
            pass_updates=PASS,
            batch=self.trainer.batch_size,
            scores=self.scores,
            scored=task.episodes * task.longest,
        )

    def begin(self, phase: int, done: int) -> None:
        """Go to the phase's environment; in one that was left before, everything is as it was."""
        self._phase, self._done = phase, done
        if self.enter(phase):
            self._is_cut = True
            if not self.task.keep_replay:
                self._replay = None

    def update(self, descend: Descend) -> Tensor:
        """Act until the update is due, and make it."""
        task = self.task
        if self._phase < task.lead:
            self.act_until(task.learning_starts)
        else:
            stage, first, _ = task.stretch(self._phase)
            self.act_until(task.due(stage, task.updates_by(stage, first) + self._done))
        loss = self.learn(self.batch(), descend)
        self.updates += 1
        self._done += 1
        return loss

    def act_until(self, interactions: int) -> None:
        """Act until the stage has had so many interactions; at random while it warms up."""
        while self.here < interactions:
            if self._is_cut:
                self.replay_buffer.begin(self.environment.observations)
                self._is_cut = False
            warm = self.here < self.task.warm(self.stage)
            actions = self.random_actions() if warm else self.actions(self.environment.observations)
            self.replay_buffer.add(actions, self.step(actions))

    def batch(self) -> Transitions:
        """The batch of the coming update."""
        replay = self.replay_buffer
        return self.ready(replay.take((self._picks(self.updates) * len(replay)).long()))

    def ready(self, batch: Transitions) -> Transitions:
        """A batch of the replay as `learn` and `loss` take it: on the device."""
        return batch if self.device == "cpu" else batch.to(self.device)

    def batches(self, phase: int) -> Sampled:
        """A thousand batches of the replay."""
        return Sampled(self, derive(self.seed, "batches", phase), self.trainer.batch_size)

    def probe(self, phase: int, samples: int) -> Transitions:
        """Transitions of the replay, drawn for this phase."""
        return next(iter(Sampled(self, derive(self.seed, "probe", phase), samples)))

    def some(self, samples: int) -> Replay:
        """The replay; before anything was done, one of a few random actions, made for whoever looks beforehand."""
        if self._replay is not None and len(self._replay):
            return self._replay
        family = self.games.families[self.stage]
        environment = family.make(1, derive(self.seed, "beforehand"))
        found = Replay(8 * samples + 64, 1, self.games.observation, self.games.action)
        found.begin(environment.observations)
        draws = Draws(values_of(self.games.action), self.seed, "beforehand")
        for number in range(samples):
            actions = evenly(self.games.action, draws(number))
            found.add(actions, environment.step(actions))
        environment.close()
        return found

    def saved_bytes(self) -> int:
        """Those of the replay, as far as the run can fill it."""
        task, space = self.task, self.games.observation
        written = len(task.stages) * (task.steps + task.copies) * (1 + space.stack)
        return ReplaySize(min(task.buffer_size, written), space, self.games.action).bytes

    def state_dict(self) -> dict[str, Tensor]:
        """Also the replay."""
        found = {**super().state_dict(), "updates": torch.tensor(self.updates), "is_cut": torch.tensor(self._is_cut)}
        if self._replay is not None:
            found |= {f"replay/{name}": value for name, value in self._replay.state_dict().items()}
        return found

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore it."""
        super().load_state_dict(state)
        self.updates, self._is_cut = int(state["updates"]), bool(state["is_cut"])
        held = {name.removeprefix("replay/"): value for name, value in state.items() if name.startswith("replay/")}
        if held:
            self.replay_buffer.load_state_dict(held)
        if self._environment is not None and not self._environment.exact:
            self._is_cut = True


class Sampled:
    """Batches of an agent's replay, drawn as it is when each is taken; the same places as often as it is read."""

    def __init__(self, agent: OffPolicyAgent, seed: int, size: int) -> None:
        self._agent, self._seed, self._size = agent, seed, size

    def __len__(self) -> int:
        return PASS

    def __iter__(self) -> Iterator[Transitions]:
        return self.shuffled(generator(self._seed, "pass"))

    def shuffled(self, draw: torch.Generator) -> Iterator[Transitions]:
        """As many batches, from places that are drawn."""
        for _ in range(PASS):
            places = torch.rand(self._size, generator=draw, dtype=torch.float64)
            replay = self._agent.some(self._size)
            yield self._agent.ready(replay.take((places * len(replay)).long()))
