"""Weights that are sharded over processes (DTensors, as FSDP2 makes them): who holds which part, and the own part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, distributed, nn

_REMEDY = "rewrite the full checkpoint, or gather it first"


@dataclass(frozen=True)
class Sharding:
    """The way in which a tensor is cut along one axis, in the order of the processes of a group.

    Each process but the last ones holds the same number of rows, rounded up; a last one may hold fewer, or none.
    """

    group: Any
    """The process group over which it is cut. In hybrid sharding each group of replicas has one."""
    axis: int
    """The axis of the tensor that is cut."""

    @property
    def ranks(self) -> tuple[int, ...]:
        """The processes of the group, by their numbers in the run."""
        return tuple(distributed.get_process_group_ranks(self.group))

    @property
    def place(self) -> int:
        """Position of this process in the group, from 0."""
        return distributed.get_rank(self.group)

    @property
    def size(self) -> int:
        """Number of processes in the group."""
        return distributed.get_world_size(self.group)

    def rows(self, length: int, place: int) -> slice:
        """The part of an axis of `length` that the process at a position of the group holds."""
        most = -(-length // self.size)
        return slice(min(length, place * most), min(length, (place + 1) * most))

    def shape(self, whole: tuple[int, ...], place: int) -> tuple[int, ...]:
        """Shape of the part of a tensor that the process at a position of the group holds."""
        mine = self.rows(whole[self.axis], place)
        return (*whole[: self.axis], mine.stop - mine.start, *whole[self.axis + 1 :])


def is_sharded(tensor: object) -> bool:
    """Whether it is a DTensor, of which this process holds a part."""
    return hasattr(tensor, "to_local") and hasattr(tensor, "placements")


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor in the memory of this process, detached; the tensor itself, detached, if it is whole."""
    if not is_sharded(tensor):
        return tensor.detach()
    with torch.no_grad():
        part: Tensor = tensor.detach().to_local()  # type: ignore[attr-defined]
    return part


def sharding(tensor: Any) -> Sharding | None:
    """How a DTensor is cut; None for a tensor that is whole, or that is cut in another way (see `problem`)."""
    if not is_sharded(tensor):
        return None
    cuts = [k for k, placement in enumerate(tensor.placements) if not placement.is_replicate()]
    if len(cuts) != 1 or type(tensor.placements[cuts[0]]).__name__ != "Shard":
        return None
    return Sharding(tensor.device_mesh.get_group(cuts[0]), int(tensor.placements[cuts[0]].dim) % tensor.ndim)


def problem(tensor: Any) -> str:
    """The reason why a DTensor cannot be rewritten, with the remedy; empty if it can, and for whole tensors."""
    if not is_sharded(tensor):
        return ""
    placed = ", ".join(map(str, tensor.placements))
    found = sharding(tensor)
    if found is None:
        return f"it is sharded over processes (DTensor) by {placed}, not along one axis alone; {_REMEDY}"
    if tuple(local(tensor).shape) != found.shape(tuple(tensor.shape), found.place):
        return f"this process holds {tuple(local(tensor).shape)} of it, which is no equal cut by {placed}; {_REMEDY}"
    return ""


def alike(tensor: Any, other: Any) -> bool:
    """Whether two tensors are both whole, or cut in the same way among the same processes."""
    if not is_sharded(tensor) or not is_sharded(other):
        return is_sharded(tensor) == is_sharded(other)
    return bool(tensor.device_mesh == other.device_mesh and tensor.placements == other.placements)


def gathered(tensor: Tensor) -> Tensor:
    """The whole tensor, detached; of a DTensor all processes make this call, and each gets the whole."""
    if not is_sharded(tensor):
        return tensor.detach()
    with torch.no_grad():
        found: Tensor = tensor.detach().full_tensor()  # type: ignore[attr-defined]
    return found


def cut_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in every process, cut as `like` is; a copy. The tensor itself if `like` is whole."""
    return whole_of(own_part(value, like).to(like.device, copy=True), like) if is_sharded(like) else value


def own_part(value: Tensor, like: Tensor) -> Tensor:
    """The part of a new value that this process keeps, for a tensor `like` that may be sharded.

    Args:
        value: A whole tensor, the same in every process; or one that is sharded as `like` is.
        like: The tensor that will take the value.
    """
    found = sharding(like)
    if found is None or is_sharded(value):
        return local(value)
    mine = found.rows(like.shape[found.axis], found.place)
    return value.detach().narrow(found.axis, mine.start, mine.stop - mine.start)


def whole_of(part: Tensor, like: Any) -> Tensor:
    """The sharded tensor, cut as `like` is, of which this process holds `part`; nothing is sent."""
    kind: Any = type(like)
    made: Tensor = kind.from_local(
        part, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
    return made


def reshard(model: nn.Module) -> None:
    """Let go of parameters that FSDP2 gathered for a pass and still keeps: what is written into those is lost.

    It keeps those of the root module after a pass without gradients.
    """
    for module in model.modules():
        again: Any = getattr(type(module), "reshard", None)
        if again is not None and hasattr(type(module), "set_reshard_after_forward"):
            again(module)
