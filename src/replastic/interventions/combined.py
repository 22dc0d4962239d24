"""Several methods at once: each does its part, one after the other in the order of the spec."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.interventions.method import Method
from replastic.interventions.penalties import total
from replastic.interventions.run import Need, Run
from replastic.weights.change import UnitReset


@dataclass(kw_only=True)
class Combined(Method):
    """The parts of a spec such as ``ewc+fire``: needs are united, penalties added up, states kept side by side.

    What parts propose is not merged: whoever leads the run asks them one by one (`parts`) and writes what each
    proposes before asking the next, so that with ``ewc+fire`` the Fisher information is that of the old weights and
    with ``fire+ewc`` that of the projected ones. At most one of them may make the optimizer.
    """

    name: ClassVar[str] = "combined"

    combined: tuple[Method, ...] = ()

    def __post_init__(self) -> None:
        """Nothing a recipe could override: the parts have fields of their own."""
        self.explicit = frozenset()

    @property
    def parts(self) -> tuple[Method, ...]:
        """In the order in which they act."""
        return self.combined

    @property
    def draws(self) -> bool:
        """Whether any of them does."""
        return any(part.draws for part in self.parts)

    def validate(self) -> None:
        """No method comes twice, at most one makes the optimizer, and none watches units that another makes differ."""
        names = [part.name for part in self.parts]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{twice} is given twice in {'+'.join(names)}")
        back = [part.name for part in self.parts if part.goes_back]
        if len(back) > 1:
            raise UserError(f"{' and '.join(back)} cannot be combined: each puts earlier weights in place of all")
        if back and not self.parts[0].goes_back:
            raise UserError(
                f"{back[0]} must come first in {'+'.join(names)}: it puts earlier weights in place of what others wrote"
            )
        late = next((part.name for part in self.parts[len(back) + 1 :] if part.scales_updates), None)
        if late is not None:
            raise UserError(
                f"{late} must come first in {'+'.join(names)}: it scales the optimizer's steps, not what others write"
            )
        makers = [part.name for part in self.parts if part.makes_optimizer]
        if len(makers) > 1:
            raise UserError(f"{' and '.join(makers)} cannot be combined: each makes the optimizer")
        changers = [part.name for part in self.parts if part.changes_structure]
        watchers = [part.name for part in self.parts if "units" in part.required()]
        if changers and watchers:
            raise UserError(
                f"{changers[0]} and {watchers[0]} cannot be combined: the one replaces modules that the other watches"
            )
        mixers = [part.name for part in self.parts if part.changes_forward]
        if mixers and watchers:
            raise UserError(
                f"{mixers[0]} and {watchers[0]} cannot be combined: what the one adds to the network makes units "
                "depend on each other, which the other resets one by one"
            )

    def required(self) -> frozenset[Need]:
        """The needs of all of them together."""
        return frozenset[Need]().union(*(part.required() for part in self.parts))

    def setup(self, run: Run) -> None:
        """Set up the parts in order, but first those that change what the network computes."""
        for part in sorted(self.parts, key=lambda part: not part.changes_forward):
            part.setup(run)

    def make_optimizer(
        self, groups: list[dict[str, Any]], build: Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
    ) -> torch.optim.Optimizer:
        """The optimizer of the part that makes one, else the run's own."""
        maker = next((part for part in self.parts if part.makes_optimizer), None)
        return build(groups) if maker is None else maker.make_optimizer(groups, build)

    def rate(self, run: Run) -> float:
        """The product of the factors."""
        return math.prod(part.rate(run) for part in self.parts)

    def penalty(self, run: Run) -> Tensor | None:
        """The sum of the penalties."""
        return total([term for part in self.parts if (term := part.penalty(run)) is not None])

    def backward(self, run: Run, parameters: Sequence[Tensor], closure: Callable[[], Tensor]) -> Tensor:
        """Each part in turn; what one computes is the loss of the part before it."""
        for part in reversed(self.parts):
            closure = partial(part.backward, run, parameters, closure)
        return closure()

    def after_write(self, run: Run, names: Collection[str], units: Sequence[UnitReset]) -> None:
        """Tell every part."""
        for part in self.parts:
            part.after_write(run, names, units)

    def state_dict(self) -> dict[str, Tensor]:
        """Every part's state, under its name."""
        return {f"{part.name}/{key}": value for part in self.parts for key, value in part.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Hand every part its own."""
        for part in self.parts:
            prefix = f"{part.name}/"
            part.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def close(self) -> None:
        """Close every part, even if one of them fails to."""
        with ExitStack() as stack:
            for part in self.parts:
                stack.callback(part.close)
