"""Clipping and a step of Adam as torch does them, bit for bit, without the work around torch's kernels.

On small networks that work takes longer than the kernels: sorting tensors by device and dtype, contexts for the
profiler, attributes of modules. Where anything is unlike the usual case, torch's own functions do the work.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer
from torch.optim import optimizer as hooks

_OTHER = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay", "weight_decay")
"""Settings of Adam that are off in the usual case."""


def clip(parameters: Sequence[Tensor], most: float) -> None:
    """Scale the gradients so that the norm of all of them together is at most `most`, in place; call it without grad.

    The same numbers as those of `torch.nn.utils.clip_grad_norm_`.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not _alike(gradients):
        nn.utils.clip_grad_norm_(parameters, most, foreach=True)
        return
    factor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0)), 2.0)
    factor.add_(1e-6).reciprocal_().mul_(most).clamp_(max=1.0)  # what torch's most / (norm + 1e-6) comes to
    torch._foreach_mul_(gradients, factor)


def step(optimizer: Optimizer) -> None:
    """Step the optimizer, called without grad: as `optimizer.step()` does, by fewer calls for torch's fused Adam."""
    if not _usual(optimizer) or not _adam(optimizer):
        optimizer.step()


def _usual(optimizer: Optimizer) -> bool:
    """Whether it is torch's fused Adam, and nobody watches its steps or replaced them."""
    return (
        type(optimizer) is Adam
        and not vars(optimizer).keys() & {"step", "grad_scale", "found_inf"}
        and not optimizer._optimizer_step_pre_hooks
        and not optimizer._optimizer_step_post_hooks
        and not hooks._global_optimizer_pre_hooks
        and not hooks._global_optimizer_post_hooks
        and all(group["fused"] and not any(group.get(name) for name in _OTHER) for group in optimizer.param_groups)
    )


def _adam(optimizer: Optimizer) -> bool:
    """Make the step; False, with nothing done, where a parameter has no state yet or tensors are not alike."""
    chosen = [[p for p in group["params"] if p.grad is not None] for group in optimizer.param_groups]
    gradients = [[p.grad for p in moved] for moved in chosen]
    states = [[optimizer.state.get(p, {}) for p in moved] for moved in chosen]
    if not all(map(all, states)) or not all(map(_alike, gradients)):
        return False
    for group, moved, slopes, known in zip(optimizer.param_groups, chosen, gradients, states, strict=True):
        counts = _counted(known)
        torch._fused_adam_(
            moved,
            slopes,
            [state["exp_avg"] for state in known],
            [state["exp_avg_sq"] for state in known],
            [],
            counts,
            lr=group["lr"],
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            weight_decay=0.0,
            eps=group["eps"],
            amsgrad=False,
            maximize=False,
        )
    return True


def _counted(states: Sequence[dict[str, Tensor]]) -> list[Tensor]:
    """The counts of the steps, one higher. They are made parts of one tensor, so that counting takes one call."""
    counts = [state["step"] for state in states]
    whole = counts[0]._base
    if whole is None or whole.numel() != len(counts) or any(count._base is not whole for count in counts):
        whole = torch.stack(counts)
        counts = list(whole.unbind())
        for state, count in zip(states, counts, strict=True):
            state["step"] = count
    whole.add_(1)
    return counts


def _alike(gradients: Sequence[Tensor]) -> bool:
    """Whether there is one at least, and all are dense, whole and of one dtype on one device, as then their weights."""
    if not gradients:
        return False
    device, dtype = gradients[0].device, gradients[0].dtype
    return not dtype.is_complex and all(
        type(g) is Tensor and g.dtype == dtype and g.device == device and g.layout == torch.strided for g in gradients
    )
