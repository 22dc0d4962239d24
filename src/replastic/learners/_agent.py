"""The part that all agents share: stages and phases, acting and counting, returns, going on."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from replastic import envs, networks
from replastic.envs import Environment, Shifted, Step
from replastic.errors import UserError
from replastic.learners._games import Draws, Games, evenly, values_of
from replastic.learners._learner import Learner
from replastic.learners._task import Score, Task
from replastic.learners._trainer import Trainer
from replastic.networks import Network
from replastic.networks.minatar_cnn import MinAtarCnn
from replastic.options import option, pieces
from replastic.probes import undisturbed
from replastic.records import STATISTICS, key
from replastic.seeds import derive, generator

RETURN, TRAINING_RETURN = key("return"), key("training_return")
RECENT = 20
"""Training episodes over which the training return is averaged: the last ones that ended."""


class Stretch(NamedTuple):
    """The part of a stage that a phase is."""

    stage: int
    first: int
    """Agent interactions in the stage before the phase begins."""
    last: int
    """Agent interactions in the stage when it ends."""


@dataclass(frozen=True, kw_only=True)
class AgentTask(Task):
    """Trains an agent in one environment, or in several one after the other: each is a stage.

    An interaction is one action in one copy of the environment. The phases of a stage are one more than interventions;
    a method acts at each of these and where the environment changes.
    """

    score: ClassVar[Score] = Score(RETURN, "return of the evaluation episodes")
    axis: ClassVar[tuple[str, str]] = ("frames", "environment frames")
    films: ClassVar[bool] = True

    environment: str = option("minatar/breakout", help="family/game; several, joined by +, follow each other")
    copies: int = option(1, help="copies of the environment that are stepped together", low=1)
    steps: int = option(100_000, help="agent interactions in each environment, over all copies", low=1)
    interventions: tuple[float, ...] = option(
        (0.5,),
        help="when a method acts within an environment: shares of its steps if below 1, else numbers of interactions",
        above=0,
    )
    levels: int = option(1, help="times that it goes through the environments", low=1)
    shift: float = option(
        0.0,
        help="spread of the offset of observations in each environment after the first: normal, drawn for the seed",
        low=0,
    )
    gamma: float = option(0.99, help="discount of later rewards", low=0, high=1)
    evaluations: int = option(10, help="evaluations in each environment, evenly spaced", low=1)
    episodes: int = option(10, help="episodes of an evaluation, side by side", low=1)
    longest: int = option(1000, help="most steps of an evaluation episode; what it has then is its return", low=1)
    network: Network = field(default_factory=MinAtarCnn)
    """The network that is trained."""

    def validate(self) -> None:
        """Interventions lie in their order, inside the steps."""
        if list(self.cuts) != sorted(set(self.cuts)) or not all(cut < self.steps for cut in self.cuts):
            raise UserError(
                f"{self.name}: interventions must rise and lie between 0 and the {self.steps} steps of an environment, "
                f"got {self.interventions}"
            )

    @property
    def stages(self) -> tuple[str, ...]:
        """Specs of the environments, one for each stage."""
        return tuple(piece.strip() for piece in pieces(self.environment)) * self.levels

    @property
    def cuts(self) -> tuple[int, ...]:
        """Interactions of a stage at which its phases begin: 0, and the interventions."""
        return (0, *(round(at * self.steps) if at < 1 else round(at) for at in self.interventions))

    @property
    def lead(self) -> int:
        """Phases before the agent trains as usual."""
        return 0

    @property
    def phases(self) -> int:
        """Those before, and for each stage one more than interventions."""
        return self.lead + len(self.stages) * len(self.cuts)

    def stretch(self, phase: int) -> Stretch:
        """The part of a stage that a phase is; before the first stage nothing of it."""
        if phase < self.lead:
            return Stretch(0, 0, 0)
        stage, part = divmod(phase - self.lead, len(self.cuts))
        ends = (*self.cuts[1:], self.steps)
        return Stretch(stage, self.cuts[part], ends[part])

    @property
    def recipe(self) -> str:
        """The network's."""
        return self.network.recipe

    @property
    def architecture(self) -> str:
        """The network's kind."""
        return type(self.network).__name__

    def extras(self) -> Mapping[str, str]:
        """Those of the simulators."""
        return {
            envs.get(spec.partition("/")[0]).extra: f"the environment {spec}" for spec in self.stages if "/" in spec
        }

    def in_words(self) -> str:
        """Network and environments."""
        again = f", {self.levels} times" if self.levels > 1 else ""
        return f"{self.architecture} on {', then '.join(dict.fromkeys(self.stages))}{again}"

    def open(self, device: str = "cpu") -> Games:
        """The environments, each looked at."""
        return Games.of([envs.from_spec(spec) for spec in self.stages])

    def facts(self, source: Games) -> dict[str, Any]:
        """Frames of a step, and how a stopped run goes on in each environment."""
        return source.facts()

    def summary(self) -> Mapping[str, Any]:
        """Statistics over runs and environments; returns of training apart; phases in several environments as tasks."""
        found = {**super().summary(), "statistics": list(STATISTICS), "game": "environment"}
        found["further"] = {TRAINING_RETURN: "return of the training episodes"}
        if len(self.stages) > 1:
            found["tasks"] = "phases"
        if len(set(self.stages)) > 1:
            names = [self.stages[self.stretch(phase).stage] for phase in range(self.lead, self.phases)]
            found["phase_names"] = ["priming"] * self.lead + names
        return found

    def check_films(self, file: str) -> None:
        """Draw each environment once."""
        for spec in dict.fromkeys(self.stages):
            with closing(envs.from_spec(spec).make(1, 0, training=False, drawn=True)) as environment:
                envs.check_recording(environment, Path(file))

    def with_network(self, name: str) -> AgentTask:
        """The network of that name at its reduced size."""
        return self._with(network=networks.get(name).reduced())

    @abstractmethod
    def _with(self, **changes: Any) -> AgentTask:
        """The same with other values of some fields."""


class Agent(Learner):
    """Acts in copies of an environment, and is judged in others of its own."""

    scores: ClassVar[tuple[str, ...]] = (RETURN,)
    """Record keys that every evaluation gives."""

    def __init__(self, task: AgentTask, games: Games, seed: int, trainer: Trainer, device: str) -> None:
        self.task, self.games, self.seed, self.trainer, self.device = task, games, seed, trainer, device
        self.stage = 0
        self.interactions = 0
        """In all stages together, over all copies."""
        self.interactions_before = 0
        """Those of the stages that lie behind."""
        self._scores: list[float] = []
        self._environment: Environment | None = None
        self._judges: dict[int, Environment] = {}
        self._random = Draws(task.copies * values_of(games.action), seed, "random actions")

    @property
    def environment(self) -> Environment:
        """The copies that it acts in; made when they are first asked for."""
        if self._environment is None:
            self._environment = self._made(self.stage)
        return self._environment

    @property
    def here(self) -> int:
        """Interactions in this stage."""
        return self.interactions - self.interactions_before

    def enter(self, phase: int) -> bool:
        """Go to the environment of a phase, if that is another one than this.

        Returns:
            Whether it is.
        """
        stage = self.task.stretch(phase).stage
        if stage == self.stage:
            return False
        if self._environment is not None:
            self._environment.close()
        self.stage, self._environment = stage, None
        self.interactions_before, self._scores = self.interactions, []
        return True

    def step(self, actions: Tensor) -> Step:
        """One step of all copies, counted; the returns of episodes that ended are noted.

        Args:
            actions: As the environment takes them, one for each copy.
        """
        taken = self.environment.step(actions)
        self.interactions += self.task.copies
        if taken.episodes:
            self._scores = [*self._scores, *(episode.score for episode in taken.episodes)][-RECENT:]
        return taken

    def random_actions(self) -> Tensor:
        """Actions drawn evenly, one for each copy."""
        return evenly(self.games.action, self._random(self.interactions // self.task.copies))

    def inputs(self, observations: Tensor) -> Tensor:
        """Observations (N, *shape) as the network reads them: float32 on its device, pixels from 0 to 1."""
        found = observations.to(self.device, torch.float32)
        return found / 255.0 if observations.dtype is torch.uint8 else found

    @abstractmethod
    def judged_actions(self, observations: Tensor, draw: torch.Generator) -> Tensor:
        """Actions (N, ...) that it takes in an evaluation, on the CPU; what it draws comes from `draw`."""

    def record(self, file: Path) -> None:
        """Play one episode as in an evaluation, and write what is seen."""
        family, seed = self.games.families[self.stage], derive(self.seed, "recording")
        environment = self._shifted(family.make(1, seed, training=False, drawn=True), self.stage)
        draw = generator(seed, "actions")
        with undisturbed(self.model), torch.no_grad(), closing(environment):
            envs.record(environment, lambda seen: self.judged_actions(self.inputs(seen), draw), file)

    def evaluate(self, phase: int, *, last: bool = False) -> dict[str, float]:
        """Mean return of evaluation episodes, and of the last training episodes where any has ended.

        Returns are sums of the game's own rewards. Evaluations have environments and seeds of their own.
        """
        stage = self.task.stretch(phase).stage
        found = {RETURN: self._judged(stage)}
        if self._scores and stage == self.stage:
            found[TRAINING_RETURN] = sum(self._scores) / len(self._scores)
        return found

    def rehearse(self) -> int:
        """Play a little as in an evaluation."""
        steps = 50
        with undisturbed(self.model), torch.no_grad():
            for _ in zip(range(steps), self._played(self.stage), strict=False):
                pass
        return steps * self.task.episodes

    def position(self) -> dict[str, int]:
        """Frames of the simulator, and interactions, so far."""
        return {"frames": self.interactions * self.games.frames, "interactions": self.interactions}

    def state_dict(self) -> dict[str, Tensor]:
        """Names of game and network, counters, the last training returns, and the environment."""
        counters = torch.tensor([self.stage, self.interactions, self.interactions_before])
        state = {"played": _as_tensor(self._played_what()), "counters": counters}
        state["scores"] = torch.tensor(self._scores, dtype=torch.float64)
        if self._environment is not None:
            state |= {f"environment/{name}": value for name, value in self._environment.state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore them; where the simulator cannot be restored a new episode begins (`Games.facts` says so).

        Raises:
            UserError: They are those of another environment or network.
        """
        known = _as_text(state["played"]) if "played" in state else "something else"
        if known != self._played_what():
            raise UserError(
                f"the saved state is of {known}, and this run is of {self._played_what()}: give another --out"
            )
        self.stage, self.interactions, self.interactions_before = state["counters"].tolist()
        self._scores = state["scores"].tolist()
        held = {n.removeprefix("environment/"): v for n, v in state.items() if n.startswith("environment/")}
        if held:
            self._environment = self._made(self.stage)
            self._environment.load_state_dict(held)

    def _made(self, stage: int) -> Environment:
        made = self.games.families[stage].make(self.task.copies, derive(self.seed, "environment", stage))
        return self._shifted(made, stage)

    def _shifted(self, environment: Environment, stage: int) -> Environment:
        """The environment of a stage with its offset: none in the first, later ones drawn for the seed."""
        if not self.task.shift or not stage:
            return environment
        draw = generator(self.seed, "offset", stage)
        return Shifted(environment, self.task.shift * torch.randn(environment.observation.shape, generator=draw))

    def _played_what(self) -> str:
        """Network and environments, in words."""
        return f"{self.task.architecture} on {', then '.join(dict.fromkeys(f.spec for f in self.games.families))}"

    def _judged(self, stage: int) -> float:
        """Mean return of the evaluation episodes in the environment of a stage."""
        returns = torch.zeros(self.task.episodes, dtype=torch.float64)
        open_ = torch.ones(self.task.episodes, dtype=torch.bool)
        with undisturbed(self.model), torch.no_grad():
            for _, step in zip(range(self.task.longest), self._played(stage), strict=False):
                returns += torch.where(open_, step.raw_rewards.double(), 0.0)
                open_ &= ~step.ended
                if not open_.any():
                    break
        return float(returns.mean())

    def _played(self, stage: int) -> Iterator[Step]:
        """Steps of evaluation, one episode after the other in every copy, without an end."""
        if stage not in self._judges:
            family = self.games.families[stage]
            self._judges[stage] = self._shifted(family.make(self.task.episodes, 0, training=False), stage)
        environment, place = self._judges[stage], (stage, self.interactions)
        observations = environment.reset(derive(self.seed, "evaluation", *place))
        draw = generator(self.seed, "evaluation actions", *place)
        while True:
            step = environment.step(self.judged_actions(self.inputs(observations), draw))
            observations = step.observations
            yield step


def _as_tensor(text: str) -> Tensor:
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)


def _as_text(value: Tensor) -> str:
    return bytes(value.tolist()).decode()
