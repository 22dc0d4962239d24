"""Optimizers of a run whose method makes its own, or adds modules that have to be trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from replastic.errors import UserError
from replastic.interventions.method import Method
from replastic.weights.entries import UndoStep
from replastic.weights.optimizer_chain import inner


def own_optimizer(method: Method, optimizer: Optimizer) -> Optimizer:
    """The method's own optimizer for the parameters of one that was given.

    Raises:
        UserError: The one that was given wraps another.
    """
    if inner(optimizer):
        raise UserError(
            f"{method.name} makes an optimizer of its own from the one that is given, but "
            f"{type(optimizer).__name__} wraps another: pass the one inside it, and wrap method.optimizer"
        )
    kind: Any = type(optimizer)
    accepted = inspect.signature(kind).parameters
    defaults = {name: value for name, value in optimizer.defaults.items() if name in accepted}
    groups = [_own_settings(group, optimizer.defaults) for group in optimizer.param_groups]
    return method.make_optimizer(groups, lambda given: kind(given, **defaults))


def adopt(modules: Mapping[str, nn.Module], optimizers: Sequence[Optimizer]) -> UndoStep:
    """Hand trainable parameters of new modules, if no optimizer has them, to one that trains others of the module.

    Returns:
        A function that takes them away again.
    """
    owners = {id(p): o for o in optimizers for g in o.param_groups for p in g["params"]}
    adopted: dict[Optimizer, list[Tensor]] = {}
    for module in modules.values() if optimizers else ():
        inside = list(module.parameters())
        owner = next((owners[id(p)] for p in inside if id(p) in owners), optimizers[0])
        new = [p for p in inside if p.requires_grad and id(p) not in owners]
        adopted.setdefault(owner, []).extend(new)
        owners |= {id(p): owner for p in new}
    added = [(owner, _new_group(owner, new)) for owner, new in adopted.items() if new]

    def undo() -> None:
        for owner, new in added:
            owner.param_groups[:] = [group for group in owner.param_groups if group is not new]
            for parameter in new["params"]:
                owner.state.pop(parameter, None)

    return undo


def _own_settings(group: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """A parameter group with the settings that are its own: the rest is for the new optimizer to choose.

    A learning rate that a schedule has moved is what it was before.
    """
    settings = dict(group)
    if "initial_lr" in settings:
        settings["lr"] = settings.pop("initial_lr")
    return {name: value for name, value in settings.items() if name not in defaults or value != defaults[name]}


def _new_group(optimizer: Optimizer, parameters: list[Tensor]) -> dict[str, Any]:
    optimizer.add_param_group({"params": parameters})
    return optimizer.param_groups[-1]


def scale_steps(
    optimizers: Iterable[Optimizer], rate: Callable[[], Callable[[], float] | None]
) -> list[RemovableHandle]:
    """Have each step made at a multiple of the learning rate; between steps the learning rates are those of the user.

    Args:
        optimizers: The optimizers.
        rate: A weak reference to what gives the factor, since what hangs on an optimizer is searched for copies of the
            weights; without it the factor is 1.

    Returns:
        The hooks.
    """
    return [hook for optimizer in optimizers for hook in _scaled(optimizer, rate)]


def _scaled(optimizer: Optimizer, rate: Callable[[], Callable[[], float] | None]) -> Iterator[RemovableHandle]:
    own: list[Any] = []

    def scale(*_: object) -> None:
        known = rate()
        factor = 1.0 if known is None else known()
        own[:] = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = factor * group["lr"]

    def put_back(*_: object) -> None:
        for group, lr in zip(optimizer.param_groups, own, strict=True):
            group["lr"] = lr

    yield optimizer.register_step_pre_hook(scale)
    yield optimizer.register_step_post_hook(put_back)
