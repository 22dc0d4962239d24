"""Finds and reads weights that a layer computes before use: parametrizations, weight norm, pruning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

_PARTS = ("_orig", "_g", "_v")


def derived_weights(module: nn.Module) -> Iterator[tuple[str, str]]:
    """Attributes of this module that are computed from other tensors, each with the reason and the remedy."""
    for attribute, steps in _parametrizations(module).items():
        kinds = ", ".join(type(step).__name__ for step in steps)
        yield (
            attribute,
            f"it is computed by a parametrization ({kinds}); call torch.nn.utils.parametrize."
            f"remove_parametrizations(module, {attribute!r}) before and register it again after, or exclude the layer",
        )
    for hook in module._forward_pre_hooks.values():
        computed = getattr(hook, "name", None) or getattr(hook, "_tensor_name", None)
        if isinstance(computed, str) and any(computed + part in module._parameters for part in _PARTS):
            yield (
                computed,
                f"it is computed by a {type(hook).__name__} hook before each forward pass; remove that first "
                "(torch.nn.utils.remove_weight_norm, remove_spectral_norm or prune.remove), or exclude the layer",
            )


def parts_of(module: nn.Module) -> frozenset[str]:
    """Names of this module's parameters whose only use is to compute another weight."""
    derived = [attribute for attribute, _ in derived_weights(module)]
    return frozenset(p for p in module._parameters for d in derived if p.startswith(d) and p[len(d) :] in _PARTS)


@torch.no_grad()
def read_derived(module: nn.Module, attribute: str) -> Tensor:
    """The present value of an attribute, detached. Updates of training, such as power iterations, do not happen."""
    steps = [s for list_ in _parametrizations(module).values() for s in list_.modules()]
    training = [step.training for step in steps]
    try:
        for step in steps:
            step.training = False
        return cast(Tensor, getattr(module, attribute)).detach()
    finally:
        for step, mode in zip(steps, training, strict=True):
            step.training = mode


def _parametrizations(module: nn.Module) -> Mapping[str, nn.ModuleList]:
    return cast(Mapping[str, nn.ModuleList], getattr(module, "parametrizations", {}))
