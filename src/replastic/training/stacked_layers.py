"""Networks of one shape as one: each sees its own batch with its own weights, in one product for each layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic.networks._activations import CReLU, Fourier, GroupSort

Layer = Callable[[Tensor], Tensor]
"""Networks times samples (K B, ...) to the same: the first B rows are the first network's."""
_BY_SAMPLE = (
    nn.Flatten,
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
    CReLU,
    Fourier,
    GroupSort,
)
"""Layers without weights that treat each sample alone."""


def unstackable(model: nn.Module) -> str:
    """The reason why networks like this one cannot be stacked, in words; empty if they can."""
    for name, module in _leaves(model):
        what = f"{name or 'the network'} ({type(module).__name__})"
        if next(module.buffers(), None) is not None:
            return f"{what} has buffers, such as running statistics"
        if type(module) not in (*_BY_SAMPLE, nn.Linear, nn.LayerNorm):
            return f"there is no stacked form of {what}"
        if type(module) is nn.Flatten and (module.start_dim, module.end_dim) != (1, -1):
            return f"{what} joins samples"
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(module, name) for module in model.modules() for name in hooks):
        return "the network is watched by hooks"
    frozen = next((name for name, p in model.named_parameters() if not p.requires_grad), None)
    if frozen is not None:
        return f"{frozen} is frozen"
    if sum(1 for _ in model.parameters()) < sum(1 for _ in model.named_parameters(remove_duplicate=False)):
        return "weights are tied"
    return ""


def stacked(model: nn.Module, weights: Mapping[str, Tensor]) -> Layer:
    """Networks like `model` as one function.

    Args:
        model: One of them, for which `unstackable` is empty; its own weights play no part.
        weights: By name of the parameter, stacked over the networks along a first axis, (K, *shape).
    """
    layers = [_layer(module, f"{name}." if name else "", weights) for name, module in _leaves(model)]

    def run(x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x)
        return x

    return run


def _leaves(model: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The layers in the order in which they run; what is no plain sequence counts as a layer."""
    if type(model) is not nn.Sequential:
        yield name, model
        return
    for child, module in model.named_children():
        yield from _leaves(module, f"{name}.{child}" if name else child)


def _layer(module: nn.Module, prefix: str, weights: Mapping[str, Tensor]) -> Layer:
    weight, bias = weights.get(f"{prefix}weight"), weights.get(f"{prefix}bias")
    if isinstance(module, nn.Linear):
        assert weight is not None
        return _linear(weight, bias)
    if isinstance(module, nn.LayerNorm):
        return _layer_norm(module, weight, bias)
    return module


def _linear(weight: Tensor, bias: Tensor | None) -> Layer:
    """Weights (K, d_out, d_in) and biases (K, d_out); (K B, *, d_in) -> (K B, *, d_out)."""
    count, d_out, d_in = weight.shape

    def run(x: Tensor) -> Tensor:
        each, turned = x.reshape(count, -1, d_in), weight.transpose(1, 2)
        product = torch.bmm(each, turned) if bias is None else torch.baddbmm(bias.unsqueeze(1), each, turned)
        return product.view(*x.shape[:-1], d_out)

    return run


def _layer_norm(module: nn.LayerNorm, weight: Tensor | None, bias: Tensor | None) -> Layer:
    """Scales and shifts (K, *shape)."""
    shape, eps = module.normalized_shape, module.eps

    def run(x: Tensor) -> Tensor:
        normed = functional.layer_norm(x, shape, eps=eps)
        if weight is None:
            return normed
        each = normed.view(len(weight), -1, *shape) * weight.unsqueeze(1)
        return (each if bias is None else each + bias.unsqueeze(1)).view_as(normed)

    return run
