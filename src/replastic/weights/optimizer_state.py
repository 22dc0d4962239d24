"""The optimizer's state of rewritten weights: it is dropped, kept or cleared row by row, and restored on undo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import LBFGS, Optimizer

from replastic.errors import UserError

Policy = Literal["reset_touched", "keep", "reset_all"]
POLICIES = ("reset_touched", "keep", "reset_all")
Optimizers = Optimizer | Sequence[Optimizer] | Mapping[str, Optimizer] | None


def check_policy(policy: Policy) -> Policy:
    """The policy itself. Raises `UserError` if it is not one of `POLICIES`."""
    if policy not in POLICIES:
        raise UserError(f"policy must be one of {', '.join(POLICIES)}, got {policy!r}")
    return policy


class OptimizerState:
    """The state of one or more optimizers. Parameter groups and hyperparameters are never changed."""

    def __init__(self, optimizers: Optimizers) -> None:
        self._optimizers = tuple(by_name(optimizers).values())
        self._holder = {id(p): (o, g) for o in self._optimizers for g in o.param_groups for p in g["params"]}

    def __bool__(self) -> bool:
        return bool(self._optimizers)

    def held(self, name: str, candidates: Iterable[Tensor]) -> list[Tensor]:
        """The tensors that the optimizers update, among the `candidates` that stand for the weight `name`.

        Raises:
            UserError: The optimizers update none of them, though the weight is trainable. So its new value would not
                be trained, or would be overwritten by a copy.
        """
        candidates = list(candidates)
        found = [t for t in candidates if id(t) in self._holder]
        if self and not found and candidates[0].requires_grad:
            raise UserError(
                f"the optimizer does not hold {name}: pass the optimizer of this very model (all of them, if there are "
                "several); if it updates fp32 copies, pass those as followers={'masters': {name: tensor}}; or exclude "
                "the weight, or set requires_grad=False"
            )
        return found

    def drop(self, parameters: Iterable[Tensor]) -> Callable[[], None]:
        """Drop the state of these parameters. Returns the function that restores it."""
        held = [(self._holder[id(p)][0], p) for p in parameters]
        joint = {id(o): o for o, _ in held if isinstance(o, LBFGS)}  # its history mixes all its parameters
        return self._take([*held, *((o, p) for o in joint.values() for p in list(o.state))])

    def drop_all(self) -> Callable[[], None]:
        """Drop the whole state. Returns the function that restores it."""
        held = [(o, p) for o in self._optimizers for group in o.param_groups for p in group["params"]]
        return self._take([*held, *((o, p) for o in self._optimizers for p in list(o.state))])

    def _take(self, owned: Iterable[tuple[Optimizer, Tensor]]) -> Callable[[], None]:
        taken: list[tuple[Optimizer, Tensor, Any]] = []
        for optimizer, parameter in dict.fromkeys(owned):
            old = optimizer.state.pop(parameter, None)
            taken.append((optimizer, parameter, old))
            _, group = self._holder.get(id(parameter), (optimizer, {}))
            if old and "initial_accumulator_value" in group:
                optimizer.state[parameter] = _first_state(old, group)

        def undo() -> None:
            for optimizer, parameter, old in taken:
                optimizer.state.pop(parameter, None)
                if old is not None:
                    optimizer.state[parameter] = old

        return undo

    @torch.no_grad()
    def clear_rows(self, parameter: Tensor, dim: int, index: Tensor) -> Callable[[], None]:
        """Set rows (along `dim`) of its state tensors to zero. Returns the function that restores them."""
        if isinstance(self._holder[id(parameter)][0], LBFGS):
            return self.drop([parameter])
        state: Mapping[str, Any] = self._holder[id(parameter)][0].state.get(parameter, {})
        like = [v for v in state.values() if isinstance(v, Tensor) and v.shape == parameter.shape and v.ndim]
        index = index.to(parameter.device)
        taken = [(moment, moment.index_select(dim, index)) for moment in like]
        for moment in like:
            moment.index_fill_(dim, index, 0)

        @torch.no_grad()
        def undo() -> None:
            for moment, rows in taken:
                moment.index_copy_(dim, index, rows)

        return undo


def by_name(given: object) -> dict[str, Optimizer]:
    """Optimizers by name: the key in a table, the place in a list, and ``""`` for a single one; empty for None.

    Raises:
        UserError: The argument is something else.
    """
    if given is None:
        return {}
    several: Any = dict(enumerate(given)) if isinstance(given, list | tuple) else given
    optimizers = {str(k): o for k, o in several.items()} if isinstance(several, Mapping) else {"": several}
    for optimizer in optimizers.values():
        if not isinstance(optimizer, Optimizer):
            raise UserError(
                f"optimizer must be a torch.optim.Optimizer, or a list or table of them, got {type(optimizer).__name__}"
            )
    return optimizers


@torch.inference_mode(False)
def _first_state(old: Mapping[str, Any], group: Mapping[str, Any]) -> dict[str, Any]:
    """The first state of Adagrad. Unlike other optimizers, it makes its state in its constructor and never again."""
    start = {"sum": group["initial_accumulator_value"], "step": 0}
    return {k: torch.full_like(v, start[k]) for k, v in old.items()}
