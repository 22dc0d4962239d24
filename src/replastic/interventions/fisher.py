"""The diagonal of the Fisher information: every sample's gradient, squared, averaged over samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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

    def forward(self, batch: Any) -> Tensor:
        return self._loss_fn(self.model, batch)


def _like(batch: Any, parts: Iterable[Tensor]) -> Any:
    """These tensors as a tuple of the batch's kind."""
    return batch._make(parts) if hasattr(batch, "_make") else tuple(parts)


def squared_gradients(run: Run, parameters: Mapping[str, Tensor], samples: int, *, sampled: bool) -> dict[str, Tensor]:
    """Mean over samples of the squared gradient of the sample's own loss, for every parameter, in evaluation mode.

    Args:
        run: Model, loss and past data: batches (inputs, targets) or other tuples of tensors, over whose first axis the
            loss is a mean.
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

    def of_one(at: dict[str, Tensor], sample: Any) -> Tensor:
        value: Tensor = functional_call(loss, at, (_like(sample, [part[None] for part in sample]),))
        return value

    each = vmap(grad(of_one), in_dims=(None, 0))
    total = {name: torch.zeros_like(value) for name, value in values.items()}
    count, size = 0, max(1, CHUNK // sum(value.numel() for value in values.values()))
    # `grad` differentiates all the same; without this, what is not among `parameters` would keep a graph of its own.
    with undisturbed(run.model), sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        for batch in run.past_batches():
            parts = [part[: samples or None] for part in batch]
            if sampled:
                shares = torch.softmax(run.model(parts[0]).double(), -1).cpu()
                parts[1] = torch.multinomial(shares, 1, generator=draw).flatten().to(parts[1])
            for some in zip(*(part.split(size) for part in parts), strict=True):
                for name, gradient in each(values, _like(batch, some)).items():
                    total[name] += gradient.square().sum(0)
            count += len(parts[0])
    if not count:
        raise UserError("ewc needs data of the past phase, but there is none")
    return {name: total[inside[id(p)]] / count for name, p in parameters.items()}
