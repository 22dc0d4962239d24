"""One update of the weights: loss and penalty, clipping, learning rate, optimizer, what the method does after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from replastic.parallel import distributed
from replastic.parallel.joint_batch_norm import joint_batch_norm
from replastic.training import supervised
from replastic.training.session import Session


def update(session: Session, batch: supervised.Batch, rate: float) -> Tensor:
    """Train on one batch.

    Args:
        session: The run; its model is in training mode.
        batch: Inputs and targets: of several processes each gives the whole batch and trains on its portion, weighted
            so that the sum of their gradients is that of the whole batch.
        rate: Factor on every group's learning rate (the warm-up).

    Returns:
        The loss before the update, without the penalty; detached, on the device, so that nobody waits for it.
    """
    trainer, optimizer = session.protocol.trainer, session.optimizer
    inputs, targets = batch
    mine, share = distributed.portion(len(targets)), distributed.share(len(targets))
    with joint_batch_norm():
        loss = share * supervised.loss(session.forward, (inputs[mine], targets[mine]))
    penalty = session.attached.penalty()
    total = loss if penalty is None else loss + penalty / distributed.world_size()
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(total)
    if distributed.is_distributed():
        loss = distributed.sum_gradients(session.parameters, loss)
    if trainer.clip_norm:
        nn.utils.clip_grad_norm_(session.parameters, trainer.clip_norm, foreach=True)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.setdefault("initial_lr", group["lr"])
    optimizer.step()
    session.position.step += 1
    session.position.step_in_phase += 1
    session.attached.after_update()
    return loss.detach()


def warm_up(step: int, steps: int, share: float) -> float:
    """Factor on the learning rate at update number `step` (from 0) of a phase of `steps`: linear up to 1, then 1."""
    rising = round(share * steps)
    return min(1.0, (step + 1) / rising) if rising else 1.0
