"""A network that is a chain: Linears with elementwise activation functions between them, one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic.probes import forward_on, undisturbed

_STEEPEST: Final[dict[type[nn.Module], Callable[[Any], float]]] = {
    nn.ReLU: lambda _: 1.0,
    nn.Tanh: lambda _: 1.0,
    nn.LeakyReLU: lambda layer: max(1.0, abs(layer.negative_slope)),
    nn.ELU: lambda layer: max(1.0, layer.alpha),
    nn.GELU: lambda _: 1.13,
    nn.SiLU: lambda _: 1.1,
    nn.Softplus: lambda _: 1.0,
    nn.Sigmoid: lambda _: 0.25,
}
"""Lipschitz constants of activation functions, rounded up."""
_NOTHING: Final = (nn.Identity, nn.Dropout)
"""Modules that hand on what they get, in evaluation mode."""
PLAIN: Final = (nn.Sequential, nn.Linear, nn.ReLU, nn.Identity, nn.Flatten)
"""Modules of a chain with ReLU or nothing between its layers."""
ANY: Final = (nn.Sequential, nn.Linear, nn.Flatten, *_NOTHING, *_STEEPEST)
"""Modules of any chain."""
_ALIKE = 1e-3
"""Largest difference between the chain's output and the model's, as a share."""


@dataclass(frozen=True)
class Link:
    """One layer of a chain, with what comes after it."""

    name: str
    """Of the weight."""
    linear: nn.Linear
    after: tuple[nn.Module, ...]
    """Activation functions, and modules that do nothing in evaluation mode."""

    @property
    def steepness(self) -> float:
        """A Lipschitz constant of what comes after the weight."""
        product = 1.0
        for module in self.after:
            product *= _STEEPEST[type(module)](module) if type(module) in _STEEPEST else 1.0
        return product

    @property
    def keeps_zero(self) -> bool:
        """Whether what comes after the weight maps 0 to 0."""
        value = torch.zeros(1)
        for module in self.after:
            value = value if isinstance(module, _NOTHING) else module(value)
        return bool(value == 0)


def against(model: nn.Module, kinds: Collection[type[nn.Module]]) -> str:
    """Why a model is not seen to be a chain of such modules; empty if it is."""
    odd = next((m for m in model.modules() if type(m) not in kinds), None)
    if odd is not None:
        between = "ReLUs" if nn.GELU not in kinds else "elementwise activation functions"
        return f"it contains {type(odd).__name__}, so that no chain of Linears and {between} can be seen"
    modules = [m for _, m in model.named_modules(remove_duplicate=False)]
    weights = [id(m.weight) for m in modules if isinstance(m, nn.Linear)]
    return "a weight is used more than once" if len(set(weights)) < len(weights) else ""


def links(model: nn.Module) -> tuple[Link, ...]:
    """The layers of a model without anything `against` it, in the order of its modules."""
    found: list[Link] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            found.append(Link(f"{name}.weight" if name else "weight", module, ()))
        elif found and not isinstance(module, nn.Sequential | nn.Flatten):
            last = found.pop()
            found.append(Link(last.name, last.linear, (*last.after, module)))
    return tuple(found)


@torch.no_grad()
def features(chain: Sequence[Link], z: Tensor) -> list[Tensor]:
    """The outputs of every layer after its activation function, (samples, units) each, in float64."""
    found, h = [], z.double()
    for link in chain:
        bias = link.linear.bias
        h = functional.linear(h, link.linear.weight.double(), None if bias is None else bias.double())
        for module in link.after:
            h = h if isinstance(module, _NOTHING) else module(h)
        found.append(h)
    return found


@torch.no_grad()
def gate_margin(chain: Sequence[Link], z: Tensor) -> float:
    """The smallest distance from 0 of an input of a ReLU, where its gate would change, over layers and samples."""
    margin, h = math.inf, z.double()
    for link, output in zip(chain, features(chain, z), strict=True):
        if any(isinstance(module, nn.ReLU) for module in link.after):
            inputs = functional.linear(h, link.linear.weight.double())
            margin = min(margin, float(inputs.abs().min()))
        h = output
    return margin


def as_rows(model: nn.Module, batch: Any) -> Tensor:
    """The inputs of a chain, (samples, d_in): each sample flattened where the chain begins so."""
    inputs = batch[0] if isinstance(batch, tuple | list) else batch
    flattened = any(isinstance(m, nn.Flatten) for m in model.modules())
    rows: Tensor = inputs.flatten(1) if flattened else inputs.reshape(-1, inputs.shape[-1])
    return rows


@torch.no_grad()
def is_run_so(model: nn.Module, chain: Sequence[Link], batch: Any) -> bool:
    """Whether the model computes on the batch what its layers do one after the other."""
    with undisturbed(model):
        output = forward_on(model, batch)
    own = features(chain, as_rows(model, batch))[-1]
    if not isinstance(output, Tensor) or output.numel() != own.numel():
        return False
    return float((output.double().reshape(own.shape) - own).norm()) <= _ALIKE * float(own.norm())
