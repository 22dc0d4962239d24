"""The inputs with which a loss first calls a network, or each network of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from replastic.errors import UserError


class Call(NamedTuple):
    """A call of a network."""

    name: str
    """Of the network in the model; empty for the model itself."""
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]


class _Seen(Exception):
    """Ends the computation of a loss when all is known."""


def first_calls(model: nn.Module, loss_fn: Callable[[nn.Module, Any], Tensor], batch: Any) -> list[Call]:
    """The first call of the model; of an `nn.ModuleDict`, which nobody calls, those of its networks.

    The loss is not computed further than needed. Run it inside `undisturbed` or `probing`.

    Raises:
        UserError: The loss calls none.
    """
    names = list(model.keys()) if isinstance(model, nn.ModuleDict) else [""]
    found: dict[str, Call] = {}
    with ExitStack() as hooks, torch.no_grad():
        for name in names:

            def note(_: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
                found.setdefault(name, Call(name, args, kwargs))
                if len(found) == len(names):
                    raise _Seen

            hooks.callback(model.get_submodule(name).register_forward_pre_hook(note, with_kwargs=True).remove)
        with suppress(_Seen):
            loss_fn(model, batch)
    if not found:
        raise UserError("loss_fn does not call the model, so its outputs are unknown: call model(...) in loss_fn")
    return list(found.values())
