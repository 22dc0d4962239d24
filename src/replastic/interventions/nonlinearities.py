"""Where a network's nonlinearities are, what goes into them, and where a normalisation before them has its place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.probes import undisturbed
from replastic.probes.activations import ACTIVATIONS, Watcher
from replastic.weights.module_store import NORMS

_SUMS = frozenset(("add", "add_", "__add__", "__radd__", "__iadd__"))


class Place(NamedTuple):
    """Where to normalise."""

    module: str
    after: bool
    """Its output; else its input."""
    over_positions: bool
    """Over every axis but the first; else over the last one."""


def unnormalised(model: nn.Module, batch: Any) -> list[Place]:
    """A place for each nonlinearity that no normalisation layer precedes, found by running the model once.

    Nonlinearities are the calls `probes.activations` knows, in a module or not. Gates and softmax of attention are
    none.

    Args:
        model: Left as it is.
        batch: Inputs, or a sequence that begins with them; the first two samples are used.

    Raises:
        UserError: A nonlinearity is called on something that no module gave; the message says where.
    """
    inputs = batch[0] if isinstance(batch, list | tuple) else batch
    tracer = _Tracer(model)
    with undisturbed(model), torch.no_grad(), tracer.attached(model), tracer:
        model(inputs[:2])
    return list(dict.fromkeys(tracer.places))


class _Tracer(Watcher):
    """Remembers which module made which tensor, and which tensors are normalised."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(lambda layer, output, axis: None)
        self.places: list[Place] = []
        self._modules = dict(model.named_modules())
        self._makers: dict[int, str] = {}
        self._normalised: set[int] = set()
        self._alive: list[Tensor] = []

    def saw(self, func: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Note what goes into a nonlinearity, and sums of something normalised."""
        if not isinstance(output, Tensor):
            return
        given = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if func in ACTIVATIONS and given:
            self._note(given[0])
            self._makers.pop(id(output), None)  # in place, the output is what went in
            self._normalised.discard(id(output))
        elif getattr(func, "__name__", "") in _SUMS and any(id(value) in self._normalised for value in given):
            self._keep(output)
            self._normalised.add(id(output))

    def _leaving(self, module: nn.Module, inputs: Any, output: Any) -> None:
        name = self.inside[-1]
        super()._leaving(module, inputs, output)
        for tensor in _tensors(output):
            self._keep(tensor)
            self._makers.setdefault(id(tensor), name)
            if isinstance(module, NORMS):
                self._normalised.add(id(tensor))

    def _note(self, given: Tensor) -> None:
        if id(given) in self._normalised:
            return
        inside, maker = self.inside[-1], self._makers.get(id(given))
        over_positions = given.dim() > 2 and self._axis(given) == 1
        if maker is not None:
            self.places.append(Place(maker, True, over_positions))
        elif (
            inside and not any(True for _ in self._modules[inside].children()) and _is_activation(self._modules[inside])
        ):
            self.places.append(Place(inside, False, over_positions))
        else:
            raise UserError(
                f"nap cannot normalise what goes into a nonlinearity in {inside or 'the model'}: no module gives it; "
                "make the activation function a module, such as torch.nn.ReLU()"
            )

    def _keep(self, tensor: Tensor) -> None:
        """So that no other tensor gets its identity during the pass."""
        self._alive.append(tensor)


def _is_activation(module: nn.Module) -> bool:
    return type(module).__module__ == nn.ReLU.__module__


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
