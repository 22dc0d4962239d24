"""One run over several processes that torchrun started: who is who, and the sums that let them act as one.

Every process holds the whole data set and the same weights, and takes its part of each batch. Alone, all of this does
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable

from replastic.errors import ReplasticError, UserError


class LostProcessError(ReplasticError):
    """Another process of the run has gone."""


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def processes(device: str) -> Iterator[str]:
    """Join the other processes for the length of a `with` block; nothing happens in a process that is alone.

    Args:
        device: ``cpu``, or ``cuda`` for one GPU per process.

    Yields:
        The device of this process.

    Raises:
        UserError: Data parallel training is not possible on this device.
        LostProcessError: The others did not come.
    """
    if not launched():
        yield device
        return
    kind, local = torch.device(device).type, int(os.environ["LOCAL_RANK"])
    options: dict[str, Any] = {}
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine has no GPU of its own: there are {torch.cuda.device_count()}, so "
                "give torchrun no more than that as --nproc-per-node"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
        options = {"device_id": torch.device(device)}
    elif kind != "cpu":
        raise UserError(f"several processes can train on cpu or cuda, not on {device!r}")
    with _plainly():
        distributed.init_process_group("nccl" if kind == "cuda" else "gloo", **options)
    try:
        yield device
        barrier()
    finally:
        distributed.destroy_process_group()


def is_distributed() -> bool:
    """Whether this process is one of several that have joined."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Number of this process, from 0: the one that writes files."""
    return distributed.get_rank() if is_distributed() else 0


def world_size() -> int:
    """How many processes there are."""
    return distributed.get_world_size() if is_distributed() else 1


def barrier() -> None:
    """Wait until every process has come this far."""
    if is_distributed():
        with _plainly():
            distributed.barrier()


def portion(count: int) -> slice:
    """Which of `count` samples this process takes: portions differ by at most one sample."""
    mine, all_of_us = rank(), world_size()
    return slice(count * mine // all_of_us, count * (mine + 1) // all_of_us)


def share(count: int) -> float:
    """The size of this process's portion of `count` samples, as a share of them."""
    mine = portion(count)
    return float(mine.stop - mine.start) / count


def total(value: Tensor) -> Tensor:
    """Sum over the processes, the same on all; differentiable, the sum of what the processes make of it being so."""
    if not is_distributed():
        return value
    summed: Tensor = _Total.apply(value)  # type: ignore[no-untyped-call]
    return summed


def averager(samples: int) -> Callable[[Tensor], Tensor]:
    """Function that takes the mean of a statistic over the processes, each weighted by its portion of `samples`.

    So the mean of what the processes saw of a batch is that of the whole batch, also where it was split unevenly.

    Raises:
        UserError: There are more processes than samples.
    """
    if samples < world_size():
        raise UserError(
            f"a batch of {samples} samples cannot be split over {world_size()} processes: start fewer, or take "
            "larger batches"
        )

    def average(value: Tensor) -> Tensor:
        return total(value.detach() * share(samples)) if is_distributed() else value

    return average


def sum_gradients(parameters: Iterable[Tensor], loss: Tensor) -> Tensor:
    """Replace the gradient of each parameter by its sum over the processes, in one exchange.

    Args:
        parameters: The same on every process; those without a gradient are left out, and must lack it on all.
        loss: A scalar, this process's part of the loss.

    Returns:
        The sum of `loss` over the processes, a scalar; detached.

    Raises:
        LostProcessError: Another process has gone.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = total(torch.cat([loss.detach().reshape(1), *(g.reshape(-1) for g in gradients)]))
    pieces = torch.split(flat[1:], [g.numel() for g in gradients])
    for gradient, summed in zip(gradients, pieces, strict=True):
        gradient.copy_(summed.view(gradient.shape))
    return flat[0]


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _summed(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return _summed(slope)


def _summed(value: Tensor) -> Tensor:
    home = value.device
    on_gpu = distributed.get_backend() == "nccl" and home.type == "cpu"
    copy = value.cuda() if on_gpu else value.clone(memory_format=torch.contiguous_format)
    with _plainly():
        distributed.all_reduce(copy)
    return copy.to(home)


@contextmanager
def _plainly() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            "another process of this run has ended or cannot be reached; its own message says why. The same command "
            f"goes on from the last saved state ({str(error).splitlines()[0]})"
        ) from error
