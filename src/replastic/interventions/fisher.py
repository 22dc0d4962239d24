"""The diagonal of the Fisher information: every sample's gradient, squared, averaged over samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from replastic.errors import UserError
from replastic.interventions.run import Run
from replastic.probes import undisturbed
from replastic.seeds import generator

CHUNK = 1 << 26
"""Elements of per-sample gradients held at a time."""


class _Loss(nn.Module):
    """The loss as a module, so that `functional_call` can put other parameters into the model below it."""

    def __init__(self, model: nn.Module, loss_fn: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.model = model
        self._loss_fn = loss_fn

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return self._loss_fn(self.model, (inputs, targets))


def squared_gradients(run: Run, parameters: Mapping[str, Tensor], samples: int, *, sampled: bool) -> dict[str, Tensor]:
    """Mean over samples of the squared gradient of the sample's own loss, for every parameter, in evaluation mode.

    Args:
        run: Model, loss and past data: batches (inputs, targets), over whose first axis the loss is a mean.
        parameters: Those of the model to differentiate, by any name; tied ones once.
        samples: The first samples of each batch that are used; 0 uses all.
        sampled: Draw the labels from the softmax of the network's outputs (B, classes) instead of those of the data.

    Returns:
        One tensor for each parameter, in its shape.

    Raises:
        UserError: The past data have no sample.
    """
    assert run.model is not None
    assert run.loss_fn is not None
    assert run.past_batches is not None
    inside = {id(p): f"model.{name}" for name, p in run.model.named_parameters()}
    values = {inside[id(p)]: p.detach() for p in parameters.values()}
    loss = _Loss(run.model, run.loss_fn)
    draw = generator(run.seed, "fisher", run.phase)

    def of_one(at: dict[str, Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        value: Tensor = functional_call(loss, at, (inputs[None], targets[None]))
        return value

    each = vmap(grad(of_one), in_dims=(None, 0, 0))
    total = {name: torch.zeros_like(value) for name, value in values.items()}
    count, size = 0, max(1, CHUNK // sum(value.numel() for value in values.values()))
    # `grad` differentiates all the same; without this, what is not among `parameters` would keep a graph of its own.
    with undisturbed(run.model), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        for inputs, targets in run.past_batches():
            inputs, targets = inputs[: samples or None], targets[: samples or None]
            if sampled:
                shares = torch.softmax(run.model(inputs).double(), -1).cpu()
                targets = torch.multinomial(shares, 1, generator=draw).flatten().to(targets)
            for some, labels in zip(inputs.split(size), targets.split(size), strict=True):
                for name, gradient in each(values, some, labels).items():
                    total[name] += gradient.square().sum(0)
            count += len(targets)
    if not count:
        raise UserError("ewc needs data of the past phase, but there is none")
    return {name: total[inside[id(p)]] / count for name, p in parameters.items()}
