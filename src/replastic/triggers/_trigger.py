"""The base of triggers: they count updates, gather losses, look now and then, and remember numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.options import check_values, name_of, option, read
from replastic.registry import Registry
from replastic.text import shown

Measure = Callable[[tuple[str, ...]], Mapping[str, float]]
"""Takes measures by name, as a record holds them: ``metric/<name>`` and ``metric/<name>/<layer>``."""
Together = Callable[[Tensor], Tensor]
"""Makes of the numbers of every process, (n,) float64, the same numbers in all of them: their mean."""


@dataclass(frozen=True)
class Seen:
    """The numbers that a trigger decides by."""

    updates: int
    """Updates since the method acted last, or since training began."""
    loss: float = math.nan
    """Mean training loss of the updates since the last look; NaN for a trigger that uses none."""
    values: Mapping[str, float] = field(default_factory=dict)
    """The measures that the trigger asked for, by the keys of records."""


@dataclass(kw_only=True, eq=False)
class Trigger:
    """Decides when a method acts. Subclasses are keyword-only dataclasses whose fields are the settings.

    Call `update` after every update of the weights. When it returns a reason, let the method act. A subclass says how
    many updates lie between two looks (`span`), which measures it needs (`measures`), and decides (`decide`) by what
    was seen. What it remembers from look to look are numbers in `memory`, which are saved and restored for it.
    """

    name: ClassVar[str] = ""
    """Public name; set by `register`."""
    uses_loss: ClassVar[bool] = False
    """Whether it decides by the training loss, so that `update` needs it."""

    rest: int = option(0, help="updates from the start, or from an action, to the earliest next one", low=0)

    def __post_init__(self) -> None:
        check_values(self.name, self)
        self.validate()
        self.memory: dict[str, list[float]] = {}
        """All that it remembers of earlier looks; names that begin with ``start/`` outlive an action."""
        self._updates = 0
        self._losses: list[float] = []
        self._unread: list[Tensor] = []
        self._measure: Measure | None = None
        self._together: Together = _alone

    def validate(self) -> None:
        """Refuse fields that do not go together.

        Raises:
            UserError: Naming the fields, their values and what is allowed.
        """

    @property
    def span(self) -> int:
        """Updates from one look to the next."""
        raise NotImplementedError

    def measures(self) -> tuple[str, ...]:
        """Names of the measures that are taken for each look (``replastic list metrics``)."""
        return ()

    def start(self, values: Mapping[str, float]) -> None:
        """Take note of the measures of the network at the start."""

    def decide(self, seen: Seen) -> str:
        """The reason, in words and numbers, why the method should act now; empty if it should not."""
        raise NotImplementedError

    def signalled(self) -> str:
        """The reason to act when the caller knows that the data changed; empty for a trigger that does not listen."""
        return ""

    def bind(self, measure: Measure | None = None, together: Together | None = None) -> None:
        """Let it take measures itself, and decide alike in all processes of a group.

        Args:
            measure: Takes the measures that `measures` names, of the network as it is.
            together: Makes the mean over the processes of a list of numbers.
        """
        self._measure = measure
        self._together = together or _alone

    def begin(self) -> None:
        """Take note of the network as it is at the start, before the first update.

        Raises:
            UserError: It needs measures, and nothing was bound that takes them; or there is none of that name.
        """
        values = self._values()
        if values:
            self.start(self._shared(math.nan, values)[1])

    def update(self, loss: Tensor | float | None = None, *, changed: bool = False) -> str:
        """Take note of an update of the weights, and look if it is time.

        Args:
            loss: The training loss of this update, a scalar.
            changed: Whether the caller knows that the data changed; the same in all processes.

        Returns:
            The reason why the method should act now; empty if it should not. With a reason, all but the values at the
            start is forgotten, and the updates are counted from here.

        Raises:
            UserError: The loss is missing or no scalar.
        """
        self._updates += 1
        if self.uses_loss:
            self._note(loss)
        reason = self.signalled() if changed else ""
        if not reason and self._updates % self.span == 0:
            reason = self._look()
        return self._rested(reason)

    def signal(self) -> str:
        """Hear that the data change, between two updates; returns the reason to act now, as `update` does."""
        return self._rested(self.signalled())

    def acted(self) -> None:
        """Take note that the method has acted, for whatever reason."""
        self._updates = 0
        self._losses, self._unread = [], []
        self.memory = {name: value for name, value in self.memory.items() if name.startswith("start/")}

    def state_dict(self) -> dict[str, Tensor]:
        """All that it remembers, as tensors by name; exact."""
        self._read()
        return {
            "name": torch.tensor(list(self.name.encode()), dtype=torch.uint8),
            "updates": torch.tensor(self._updates),
            "losses": torch.tensor(self._losses, dtype=torch.float64),
            **{f"memory/{name}": torch.tensor(value, dtype=torch.float64) for name, value in self.memory.items()},
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave.

        Raises:
            UserError: The state is that of another trigger, or of none.
        """
        missing = {"name", "updates", "losses"} - state.keys()
        if missing:
            raise UserError(f"this is no state of a trigger: it lacks {', '.join(sorted(missing))}")
        name = bytes(state["name"].tolist()).decode()
        if name != self.name:
            raise UserError(f"the saved state is that of the trigger {name}, not of {self.name}")
        self._updates, self._losses, self._unread = int(state["updates"]), state["losses"].tolist(), []
        self.memory = {
            key.removeprefix("memory/"): value.tolist() for key, value in state.items() if key.startswith("memory/")
        }

    def _rested(self, reason: str) -> str:
        """The reason itself, with which all begins anew, unless the last action is too recent."""
        if not reason or self._updates < self.rest:
            return ""
        self.acted()
        return reason

    def _note(self, loss: Tensor | float | None) -> None:
        """Keep the loss without waiting for the device."""
        if loss is None:
            raise UserError(f"the trigger {self.name} decides by the training loss: pass loss=, such as loss=loss")
        if isinstance(loss, Tensor) and loss.numel() == 1:
            self._unread.append(loss.detach().reshape(()))
        elif isinstance(loss, int | float) and not isinstance(loss, bool):
            self._read()
            self._losses.append(float(loss))
        else:
            said = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else shown(loss)
            raise UserError(f"loss must be a number or a scalar tensor, got {said}")

    def _read(self) -> None:
        if self._unread:
            self._losses += torch.stack(self._unread).cpu().double().tolist()
            self._unread = []

    def _look(self) -> str:
        self._read()
        loss = math.fsum(self._losses) / len(self._losses) if self._losses else math.nan
        self._losses = []
        loss, values = self._shared(loss, self._values())
        if not all(map(math.isfinite, [*values.values(), *([loss] if self.uses_loss else ())])):
            return ""
        return self.decide(Seen(self._updates, loss, values))

    def _values(self) -> Mapping[str, float]:
        """The measures, taken now."""
        names = self.measures()
        if not names:
            return {}
        if self._measure is None:
            raise UserError(
                f"the trigger {self.name} decides by {', '.join(names)} of the network: use it through "
                "replastic.during(..., trigger=...), or bind a function that takes measures"
            )
        found = self._measure(names)
        return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}

    def _shared(self, loss: float, values: Mapping[str, float]) -> tuple[float, dict[str, float]]:
        """The same numbers in all processes, so that all decide alike."""
        if not self.uses_loss and not values:
            return loss, {}
        numbers = torch.tensor([loss if self.uses_loss else 0.0, *values.values()], dtype=torch.float64)
        first, *rest = self._together(numbers).tolist()
        return first, dict(zip(values, rest, strict=True))


def _alone(numbers: Tensor) -> Tensor:
    return numbers


REGISTRY: Registry[type[Trigger]] = Registry("trigger", "replastic.triggers")
register, names, get, entry = REGISTRY.register, REGISTRY.names, REGISTRY.get, REGISTRY.entry


def from_spec(spec: str | Trigger) -> Trigger:
    """The trigger that a text describes: ``name`` or ``name:field=value,field=value``; a trigger itself stays.

    Raises:
        UserError: There is none of that name, it has no such field, or a value is not allowed.
    """
    if isinstance(spec, Trigger):
        return spec
    if not isinstance(spec, str) or not name_of(spec):
        raise UserError(f"trigger must be a name such as 'plateau' or 'every:steps=500', got {shown(spec)}")
    kind, given = read(spec, get)
    made: Any = kind(**given)
    return made  # type: ignore[no-any-return]


def spec_of(trigger: Trigger) -> str:
    """The shortest text from which `from_spec` makes an equal trigger: fields that differ from their defaults."""
    parts = [f"{f.name}={getattr(trigger, f.name)}" for f in fields(trigger) if getattr(trigger, f.name) != f.default]
    return f"{trigger.name}:{','.join(parts)}" if parts else trigger.name
