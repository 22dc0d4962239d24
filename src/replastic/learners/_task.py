"""The settings of a learner before anything is loaded: its data, its network, and the names of its results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any, ClassVar

from replastic.errors import UserError
from replastic.learners._learner import Learner
from replastic.learners._trainer import Trainer
from replastic.options import Settings
from replastic.registry import Registry


@dataclass(frozen=True)
class Score:
    """The number by which the network is judged."""

    key: str
    """Record key, such as ``metric/accuracy``."""
    label: str
    """In words, for tables and axes."""
    higher_is_better: bool = True
    bounds: tuple[float | None, float | None] = (None, None)
    """Least and largest value that it can have; None where there is no such end. Intervals stay within them."""


@dataclass(frozen=True, kw_only=True)
class Task(Settings, ABC):
    """The settings of one kind of learning. Subclasses are keyword-only frozen dataclasses.

    Flags and run.json come from their fields. Each is an `option`, or a dataclass of options, such as a network or a
    stream.
    """

    score: ClassVar[Score]
    axis: ClassVar[tuple[str, str]] = ("step", "optimizer updates")
    """Record key of how far training has come, and how to call it: updates, tokens or frames."""

    films: ClassVar[bool] = False
    """Whether its learners can `record` a film of what they do."""

    def check_films(self, file: str) -> None:
        """See that a film of that name could be made here, before anything long begins; only asked with `films`.

        Raises:
            UserError: The message says what is missing.
        """

    def judged_by(self, phase: int) -> Score:
        """The score by which the best checkpoint of a phase is chosen; `score` unless a phase aims at another."""
        return self.score

    @property
    @abstractmethod
    def phases(self) -> int:
        """Number of phases."""

    @abstractmethod
    def open(self, device: str = "cpu") -> Any:
        """Data or environments, shared by the runs of a process; whatever `learner` takes as its source.

        Raises:
            UserError: They are not there, or are not what they should be.
        """

    @abstractmethod
    def learner(self, source: Any, seed: int, trainer: Trainer, device: str = "cpu") -> Learner:
        """A new learner.

        Args:
            source: What `open` gave for this device.
            seed: Seed of all that it draws.
            trainer: How it is trained.
            device: Where.

        Raises:
            UserError: The settings do not fit each other or the data.
        """

    def extras(self) -> Mapping[str, str]:
        """Extras of this package without which `open` fails, each with its purpose in words."""
        return {}

    def facts(self, source: Any) -> dict[str, Any]:
        """Facts that tell one source from another of the same name, for run.json: sizes, a checksum."""
        return {}

    def shortfall(self, source: Any) -> str:
        """The part that the source lacks of the set whose name it bears, in words; empty where it lacks none."""
        return ""

    def in_words(self) -> str:
        """Network and data, such as ``ResNet18 on cifar10``."""
        return self.name

    def config(self) -> dict[str, Any]:
        """Every setting as it goes into run.json."""
        found: dict[str, Any] = {"learner": self.name}
        for f in fields(self):
            value: Any = getattr(self, f.name)
            part = is_dataclass(value) and not isinstance(value, type)
            found[f.name] = {"type": type(value).__name__, **asdict(value)} if part else value
        return found

    def summary(self) -> Mapping[str, Any]:
        """How to present the runs; a benchmark may say it in words of its own. See `records.RunInfo.summary`."""
        key, label = self.axis
        return {
            "score": self.score.key,
            "score_label": self.score.label,
            "higher_is_better": self.score.higher_is_better,
            "score_bounds": list(self.score.bounds),
            "axis": key,
            "axis_label": label,
        }

    @property
    def recipe(self) -> str:
        """Name of the recipe made for the network; empty if there is none."""
        return ""

    @property
    def architecture(self) -> str:
        """Kind of the network, whatever its sizes; empty if there is no choice of networks."""
        return ""

    def on(self, data: str) -> Task:
        """The same on other data, given as a spec.

        Raises:
            UserError: It has no choice of data.
        """
        raise UserError(f"{self.name} makes its own data: there is no choice of {data!r}")

    def with_network(self, name: str) -> Task:
        """The same with the network of that name.

        Raises:
            UserError: It has no choice of networks.
        """
        raise UserError(f"{self.name} has no choice of networks: {name!r} cannot be used")


REGISTRY: Registry[type[Task]] = Registry("learner", "replastic.learners")
register, names, get, entry = REGISTRY.register, REGISTRY.names, REGISTRY.get, REGISTRY.entry
