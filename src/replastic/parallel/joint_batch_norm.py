"""Batch normalisation over a batch that is split over processes, with the statistics of the whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from replastic.parallel import distributed


@contextmanager
def joint_batch_norm() -> Iterator[None]:
    """Inside the block, batch normalisation in training mode uses the statistics of the samples of all processes.

    No module is replaced. Every layer calls `torch.nn.functional.batch_norm`, and that call is intercepted here.
    (`torch.nn.SyncBatchNorm` replaces modules and runs on GPUs alone.) In a process that is alone, nothing changes.
    """
    if not distributed.is_distributed():
        yield
        return
    with _Joint():
        yield


class _Joint(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.batch_norm:
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm` of this process's samples (B, C, *positions), by statistics of all samples."""
    if not training:
        return functional.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = input.to(torch.promote_types(input.dtype, torch.float32))
    mean, var, count = _statistics(x)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((var * (count / (count - 1))).to(running_var), momentum)
    shape = (1, -1, *(1 for _ in x.shape[2:]))
    scale = torch.rsqrt(var + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return (x * scale.view(shape) + shift.view(shape)).to(input.dtype)


def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and count of the numbers of each channel over all processes; (C,) each.

    The processes exchange their own means and variances once. The formula of Chan et al. (1979) combines them; unlike
    sums of squares it does not suffer from cancellation.
    """
    dims = [d for d in range(x.dim()) if d != 1]
    mean, var = x.mean(dims), x.var(dims, unbiased=False)
    mine = torch.stack([torch.full_like(mean, x.numel() // x.shape[1]), mean, var])
    places = torch.zeros(distributed.world_size(), 1, 1, dtype=x.dtype, device=x.device)
    places[distributed.rank()] = 1.0
    counts, means, variances = distributed.total(places * mine).unbind(1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    var = (counts * (variances + (means - mean).square())).sum(0) / count
    return mean, var, count
