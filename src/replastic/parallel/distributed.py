"""One run over several processes that torchrun started: their ranks, and sums over all of them.

Every process holds the whole data set and the same weights, and takes its part of each batch. In a process that is
alone, nothing here has an effect.
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
    """Another process of the run has ended or cannot be reached."""


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextmanager
def processes(device: str) -> Iterator[str]:
    """Join the other processes inside the `with` block. Has no effect in a process that is alone.

    Args:
        device: ``cpu``, or ``cuda`` for one GPU per process.

    Yields:
        The device of this process.

    Raises:
        UserError: Data parallel training is not possible on this device.
        LostProcessError: Another process did not join.
    """
    if not launched():
        yield device
        return
    kind, local = torch.device(device).type, int(os.environ["LOCAL_RANK"])
    options: dict[str, Any] = {}
    if kind == "cuda":
        if local >= torch.cuda.device_count():
            raise UserError(
                f"process {local} of this machine has no GPU of its own, as there are {torch.cuda.device_count()}: "
                f"start torchrun with --nproc-per-node {torch.cuda.device_count()} or less"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
        options = {"device_id": torch.device(device)}
    elif kind != "cpu":
        raise UserError(f"several processes can train on cpu or cuda, not on {device!r}")
    with plainly():
        distributed.init_process_group("nccl" if kind == "cuda" else "gloo", **options)
    try:
        yield device
        barrier()
    finally:
        distributed.destroy_process_group()


def is_distributed() -> bool:
    """Whether this process has joined others."""
    return distributed.is_available() and distributed.is_initialized()


def rank() -> int:
    """Number of this process, from 0. Process 0 writes the files."""
    return distributed.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes."""
    return distributed.get_world_size() if is_distributed() else 1


def barrier() -> None:
    """Wait until every process has reached this call."""
    if is_distributed():
        with plainly():
            distributed.barrier()


def first_says(yes: bool) -> bool:
    """The answer of process 0, in all processes."""
    return bool(total(torch.tensor(float(yes and rank() == 0)))) if is_distributed() else yes


def portion(count: int) -> slice:
    """The samples that this process takes, of `count` in all. Portions differ by at most one sample."""
    mine, all_of_us = rank(), world_size()
    return slice(count * mine // all_of_us, count * (mine + 1) // all_of_us)


def share(count: int) -> float:
    """The portion of this process as a share of all `count` samples, in [0, 1]."""
    mine = portion(count)
    return float(mine.stop - mine.start) / count


def total(value: Tensor) -> Tensor:
    """Sum over the processes, the same on all of them. The gradient is summed over the processes, too."""
    if not is_distributed():
        return value
    summed: Tensor = _Total.apply(value)  # type: ignore[no-untyped-call]
    return summed


def sum_over(group: Any, value: Tensor) -> Tensor:
    """Sum of a tensor over the processes of a group, the same on all of them; one all-reduce.

    Raises:
        LostProcessError: Another process has ended or cannot be reached.
    """
    return _summed(value, group)


def averager(samples: int) -> Callable[[Tensor], Tensor]:
    """A function that takes the mean of a statistic over the processes, weighted by their portions of `samples`.

    If every process gives the mean over its part of a batch, the result is the mean over the whole batch, also for an
    uneven split.

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
        parameters: The same on every process. A parameter may lack a gradient, but then on all processes.
        loss: A scalar: the part of the loss that this process computed.

    Returns:
        The sum of `loss` over the processes, a detached scalar.

    Raises:
        LostProcessError: Another process has ended or cannot be reached.
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


def _summed(value: Tensor, group: Any = None) -> Tensor:
    home = value.device
    on_gpu = distributed.get_backend(group) == "nccl" and home.type == "cpu"
    copy = value.cuda() if on_gpu else value.clone(memory_format=torch.contiguous_format)
    with plainly():
        distributed.all_reduce(copy, group=group)
    return copy.to(home)


@contextmanager
def plainly() -> Iterator[None]:
    """Tell an error of a collective as `LostProcessError`."""
    try:
        yield
    except RuntimeError as error:
        raise LostProcessError(
            "another process of this run has ended or cannot be reached; its own message says why. Start the same "
            f"command again to go on from the last saved state ({str(error).splitlines()[0]})"
        ) from error
