"""Churn: how far one update on some samples moves the outputs on others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from replastic.metrics._metric import register
from replastic.options import Settings, option
from replastic.probes._trees import tensors
from replastic.probes.first_calls import first_calls
from replastic.probes.quiet import undisturbed
from replastic.probes.samples import count_samples, take
from replastic.probes.trainee import Trainee, copied, unwrapped
from replastic.seeds import drawing_from


@dataclass(frozen=True, kw_only=True)
class Options(Settings):
    """Options of `churn`."""

    name = "churn"

    lr: float = option(1e-4, help="step size of the update", above=0)
    batch_size: int = option(32, help="samples of the update; at most half of those given", low=1)


@register(
    "churn",
    on="loss",
    label="churn of one update (share of the outputs' size)",
    plastic="lower",
    bounds=(0.0, None),
    logarithmic=True,
    options=Options,
    reference="https://arxiv.org/abs/2409.04792",
)
def churn(
    model: nn.Module,
    batches: Iterable[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    generator: torch.Generator,
    options: Options = Options(),
) -> Tensor:
    """Mean |change of an output| on a reference batch by one update on other samples, over the mean |output| there.

    The update is the first one of Adam at 1e-4, so that every weight with a gradient moves by that much: on a copy, in
    training mode, on 32 samples drawn from the first batch. The rest of the batch is the reference batch, in evaluation
    mode. Of several networks (`nn.ModuleDict`) all outputs count.

    Reference: Tang and Berseth (2024), section 3: the change of the outputs on data outside of the update's batch.
        Their updates are those of the run. Adam without a history and the division by the outputs' size are ours, so
        that networks at different moments, and of different scale, can be compared.
    """
    (batch, *_) = batches
    samples = count_samples(batch)
    order = torch.randperm(samples, generator=generator)
    cut = max(1, min(options.batch_size, samples // 2))
    learned, reference = take(batch, order[:cut]), take(batch, order[cut:] if samples > 1 else order)
    copy = copied(unwrapped(model))
    trainee = Trainee(copy, lambda parameters: torch.optim.Adam(parameters, lr=options.lr), loss_fn)
    calls = _calls(copy, loss_fn, reference)
    before = _outputs(copy, calls)
    with drawing_from(int(torch.randint(2**62, (), generator=generator)), copy), torch.enable_grad():
        trainee.step(learned)
    after = _outputs(copy, calls)
    moved = torch.cat([(a - b).flatten() for a, b in zip(after, before, strict=True)]).abs().mean()
    size = torch.cat([value.flatten() for value in before]).abs().mean()
    return moved / size if bool(size) else torch.zeros((), dtype=torch.float64)


def _calls(model: nn.Module, loss_fn: Callable[[nn.Module, Any], Tensor], batch: Any) -> list[Any]:
    with undisturbed(model):
        return list(first_calls(model, loss_fn, batch))


@torch.no_grad()
def _outputs(model: nn.Module, calls: list[Any]) -> list[Tensor]:
    """Outputs of the networks, in float64."""
    with undisturbed(model):
        found = [model.get_submodule(name)(*args, **kwargs) for name, args, kwargs in calls]
    return [value.detach().double() for value in tensors(found) if value.is_floating_point()]
