"""Streams: phases by number, each a pure function of the data and the seed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from replastic.data import Dataset, Splits
from replastic.errors import UserError
from replastic.options import Settings
from replastic.registry import Registry


@dataclass(frozen=True)
class Phase:
    """One data regime: the training data, how long they are trained on, and the data that score the network."""

    index: int
    train: Dataset
    evaluations: Mapping[str, Dataset] = field(default_factory=dict)
    """Data to score by name; the score is recorded as ``metric/accuracy_<name>``, or ``metric/accuracy`` for ``""``."""
    steps: int | None = None
    """Optimizer updates; give either these or `epochs`."""
    epochs: int | None = None
    """Passes over `train`."""
    announced: bool = True
    """Whether whoever trains is told that the phase begins. Triggers are not told of a hidden one."""

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise UserError(f"phase {self.index} must last either `steps` or `epochs`, and not both")
        if not len(self.train):
            raise UserError(f"phase {self.index} has no training data")


@dataclass(frozen=True, kw_only=True)
class Stream(Settings, ABC):
    """Ordered phases. Subclasses are keyword-only frozen dataclasses whose fields are the settings, each an `option`.

    Phases are asked for by number, so that a resumed run begins anywhere. `Phase.train` holds all that a phase trains
    on, with the past data that it keeps.
    """

    @abstractmethod
    def __len__(self) -> int:
        """Number of phases."""

    @abstractmethod
    def phase(self, splits: Splits, index: int, seed: int) -> Phase:
        """Phase number `index`, the same whenever it is asked for.

        Raises:
            UserError: The settings do not fit the data.
        """


REGISTRY: Registry[type[Stream]] = Registry("stream", "replastic.streams")
register, names, get, entry = REGISTRY.register, REGISTRY.names, REGISTRY.get, REGISTRY.entry
