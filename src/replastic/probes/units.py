"""Which hidden units feed which weights, from a traced pass or as the network itself declares it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.probes._flow import Flow
from replastic.probes._unit_map import UnitGroup, UnitMap, UnitSlice
from replastic.probes.activations import activations
from replastic.probes.quiet import undisturbed

__all__ = ["UnitGroup", "UnitMap", "UnitSlice", "unit_groups"]


def unit_groups(
    model: nn.Module,
    sample: Any,
    forward: Callable[[nn.Module, Any], object] = lambda model, sample: model(sample),
) -> UnitMap:
    """Find the hidden units of a network, by following a training pass on a sample, without a trace.

    A unit is an output channel of a Linear or a convolution that goes through one activation function, alone or after
    a batch normalisation, and is then read by Linears and convolutions, perhaps after dropout, pooling, a mean over
    positions or a change of shape. Everything else that happens to a channel takes it off the list, with the reason:
    it is added to another layer's (residual stream), mixed with others (layer norm, attention), an output, or read by
    an operation this function does not know.

    A network may say itself what its units are: a method ``unit_groups()`` on it, which returns `UnitGroup`s, is
    believed once names and sizes are found to fit.

    Args:
        model: Any module; one that `torch.compile` made is refused.
        sample: A batch, two samples or more where the network has batch normalisation.
        forward: Runs the model on the sample; it may be a loss.

    Raises:
        UserError: The model does not run on the sample, hides a part of what it does from torch's dispatcher, or
            declares units that do not fit it.
    """
    if hasattr(model, "_orig_mod"):
        raise UserError("units cannot be seen inside a compiled model: give the model that torch.compile was given")
    declared = getattr(model, "unit_groups", None)
    flow = Flow(model)
    seen: dict[str, int] = {}
    with undisturbed(model, training=True), torch.enable_grad():
        try:
            if callable(declared):
                with activations(model, lambda layer, features: seen.update({layer: features.shape[1]})):
                    forward(model, sample)
            else:
                with flow.attached(model), flow:
                    forward(model, sample)
        except UserError:
            raise
        except Exception as error:
            raise UserError(f"cannot look for hidden units: the model fails on the sample: {error}") from error
    if not callable(declared):
        return flow.units()
    groups = tuple(declared())
    for group in groups:
        _check(group, flow.ledger.tensors, seen)
    return UnitMap(groups)


def _check(group: UnitGroup, tensors: Mapping[str, Tensor], seen: Mapping[str, int]) -> None:
    """See that a declared group fits the network."""
    if seen.get(group.name) != group.units:
        raise UserError(
            f"the network declares {group.units} units called {group.name!r}, but its activation functions are "
            + ", ".join(f"{name} ({units})" for name, units in seen.items())
        )
    if not group.incoming or not group.outgoing:
        raise UserError(
            f"the network declares units called {group.name!r} without incoming or without outgoing weights"
        )
    for part in (*group.incoming, *group.outgoing):
        shape = tuple(tensors[part.tensor].shape) if part.tensor in tensors else None
        if shape is None or part.dim >= len(shape) or shape[part.dim] != group.units * part.slots:
            raise UserError(
                f"the network declares that {group.name!r} has {group.units} units of {part.slots} places along axis "
                f"{part.dim} of {part.tensor}, whose shape is {shape or 'unknown: there is no such tensor'}"
            )
