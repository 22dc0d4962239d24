"""Random tasks that a network has never seen, and how much of their loss a copy removes in a number of steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.probes.loss import loss_on
from replastic.probes.random_labels import with_random_labels
from replastic.probes.trainee import MakeOptimizer, Trainee, copied, share_removed, unwrapped
from replastic.seeds import derive, drawing_from

LossFunction = Callable[[nn.Module, Any], Tensor]


def shares_removed(
    model: nn.Module,
    batch: Any,
    loss_fn: LossFunction,
    make: MakeOptimizer,
    *,
    steps: int,
    tasks: int,
    batch_size: int = 0,
    least: float = 0.0,
    seed: int = 0,
) -> list[float]:
    """The share of its excess loss that a copy of the network removes on each of some random tasks.

    A task is the batch with its labels handed out at random among its samples; each begins with a new copy. The excess
    is counted from the loss at which a network starts that has nothing to unlearn: its own initial loss, or the loss of
    the best outputs that ignore the inputs, whichever is lower. So a network whose outputs no longer depend on its
    inputs has 0, however wrong it begins. Where those outputs cannot be found (see `loss_without_inputs`), it is
    counted from the network's own loss.

    Args:
        model: The network; it, its gradients and the random generators stay as they are.
        batch: A pair of inputs and labels, or a table that holds labels.
        loss_fn: Mean loss of the model on a batch.
        make: Makes an optimizer from parameters.
        steps: Optimizer steps on each task.
        tasks: How many tasks.
        batch_size: Samples of a step; 0 for all at once.
        least: Loss to which the tasks could be brought.
        seed: Seed of the tasks and of what is drawn in training.

    Raises:
        UserError: The batch has no labels that could be handed out, or the model cannot be copied or trained.
    """
    plain = unwrapped(model)
    found = []
    for number in range(tasks):
        task, _ = with_random_labels(batch, derive(seed, "task", number))
        if task is None:
            raise UserError(
                "random tasks need a batch with labels that can be handed out anew: a pair (inputs, labels) or a "
                f"table with labels or targets, of two samples or more; got a {type(batch).__name__}"
            )
        trainee = Trainee(copied(plain), make, loss_fn)
        before, after = trainee.course(list(parts(task, batch_size)), [task], steps, derive(seed, "course", number))
        start = min(before, loss_without_inputs(plain, task, loss_fn))
        found.append(share_removed(start, after, least))
    return found


def loss_without_inputs(model: nn.Module, batch: Any, loss_fn: LossFunction) -> float:
    """The least loss on a batch of outputs that are the same for every sample: what can be had without looking at it.

    The entropy of the labels for cross-entropy, the variance of the targets for squared errors. Found by L-BFGS on
    outputs put in place of the model's.

    Returns:
        The loss; infinity where the model's output is no tensor with a row for each sample, or the loss function does
        not call the model exactly once.
    """
    stand_in = copied(model)
    seen: list[Any] = []
    watch = stand_in.register_forward_hook(lambda module, inputs, output: seen.append(output))
    with drawing_from(0, model), torch.no_grad():
        loss_on(stand_in, batch, loss_fn, finite=False)
    watch.remove()
    if len(seen) != 1 or not isinstance(seen[0], Tensor) or seen[0].dim() == 0 or not seen[0].is_floating_point():
        return math.inf
    row = seen[0].float() if seen[0].dtype in (torch.float16, torch.bfloat16) else seen[0]
    row, shape = row.mean(0, keepdim=True).nan_to_num().requires_grad_(True), row.shape
    stand_in.forward = lambda *_, **__: row.expand(shape)
    optimizer = torch.optim.LBFGS([row], max_iter=100, line_search_fn="strong_wolfe")
    found = [math.inf]

    def closure() -> float:
        loss = loss_on(stand_in, batch, loss_fn, finite=False)
        row.grad = torch.autograd.grad(loss, [row], allow_unused=True, materialize_grads=True)[0]
        found.append(float(loss.detach()))
        return found[-1]

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return min(value for value in found if not math.isnan(value))


def parts(batch: Any, size: int) -> Iterator[Any]:
    """The batch in parts of `size` samples, the last one smaller; 0 for the batch as it is.

    Raises:
        UserError: It is neither a pair nor a table of tensors with as many rows each.
    """
    if not size:
        yield batch
        return
    values = list(batch.values()) if isinstance(batch, Mapping) else list(batch)
    if not all(isinstance(value, Tensor) and value.dim() > 0 and len(value) == len(values[0]) for value in values):
        raise UserError(
            "a batch can be cut into parts if it is a pair or a table of tensors with a row for each sample: leave "
            "batch_size at 0 for all samples at once"
        )
    for first in range(0, len(values[0]), size):
        part = slice(first, first + size)
        if isinstance(batch, Mapping):
            yield {key: value[part] for key, value in batch.items()}
        else:
            yield tuple(value[part] for value in batch)
