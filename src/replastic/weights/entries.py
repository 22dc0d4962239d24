"""The vocabulary of this room: a weight as stored, the matrices seen in it, and the stores that hold it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class MatrixInfo:
    """A batch of equally shaped matrices inside one weight, such as the taps of a convolution or the q of a fused qkv.

    `d_out` and `d_in` are fan-out and fan-in of one matrix: matrices are always presented as (batch, d_out, d_in).
    `batch` counts the taps of a convolution (outermost) times its groups, the heads, or the experts.
    """

    weight: str
    """Name of the parameter, such as ``layer1.0.conv1.weight``."""
    kind: str
    """``linear``, ``conv``, ``conv_transpose``, ``experts``; ``vector`` for what is no matrix (biases, norms)."""
    batch: int
    d_out: int
    d_in: int
    taps: int = 1
    """Spatial positions of the kernel (kh * kw), 1 unless a convolution."""
    block: str = ""
    """Which part of a fused weight: ``q``, ``k``, ``v``, ``gate``, ``up``; empty when the weight is one part."""
    role: str = ""
    """`WeightEntry.role`, in what a method is asked to solve; a view by itself does not know it."""

    @property
    def label(self) -> str:
        """Name for messages and records: the weight's, with the block in brackets."""
        return f"{self.weight}[{self.block}]" if self.block else self.weight


class View(ABC):
    """A reversible way to see one stored weight as one or more batches of matrices; `weights.geometry` has them all.

    `merge` undoes `split`: numbers only change places.
    """

    kind: str
    """``linear``, ``conv``, ``conv_transpose`` or ``experts``."""

    @property
    def layout(self) -> Mapping[str, Any]:
        """What a recipe's `layout` would say to describe this view; the keys of a rule replace these."""
        return {}

    @abstractmethod
    def infos(self, name: str, shape: Sequence[int]) -> tuple[MatrixInfo, ...]:
        """The batches this view makes of a weight of that name and shape.

        Raises:
            UserError: The shape does not divide as the view asks; the message names the weight.
        """

    @abstractmethod
    def split(self, weight: Tensor) -> list[Tensor]:
        """The batches, each (batch, d_out, d_in); may share memory with `weight`, so they are read only."""

    @abstractmethod
    def merge(self, parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """The inverse of `split`: a tensor of `shape` in the dtype of the parts."""


@dataclass(frozen=True)
class WeightEntry:
    """One stored tensor and what is known of it. Tied tensors have one entry, whose `aliases` are the other names."""

    name: str
    """As in the state dict, without what wrappers such as `torch.compile` put before it."""
    shape: tuple[int, ...]
    """As stored; what is seen of it as matrices is up to the view."""
    dtype: torch.dtype
    """As stored."""
    role: str
    """``matrix`` (a hidden weight), ``head``, ``embedding``, ``norm``, ``bias``, ``buffer`` or ``other``."""
    view: View | None
    """How it is seen as matrices; None for what is no matrix."""
    aliases: tuple[str, ...] = ()
    """Other names of the same tensor."""
    trainable: bool = True
    """Whether training changes it: frozen parameters and buffers are left alone by most methods."""
    refusal: str = ""
    """Why it must not be written, with the remedy; empty if it may be."""
    layer: str = ""
    """Kind of its layer's matrices, so that the bias of a Linear says ``linear``; filled in by `select`."""
    derived: bool = False
    """Computed from other tensors of the store (a parametrization): those may be written, it itself is refused."""


class Transaction(Protocol):
    """A set of writes that happens whole or not at all. Use as a context manager: leaving it by an error aborts."""

    def __enter__(self) -> Transaction: ...
    def __exit__(self, *error: object) -> None: ...

    def stage(self, name: str, value: Tensor) -> None:
        """Keep the new value of one tensor (any dtype: the store casts once); nothing is visible yet."""

    def commit(self) -> Callable[[], None]:
        """Make every staged value visible and return a function that takes all of it back."""


class WeightStore(Protocol):
    """A place where weights live: a live module (`ModuleStore`) or a checkpoint on disk (`CheckpointStore`)."""

    def entries(self) -> Sequence[WeightEntry]:
        """Every tensor of the store, parameters and buffers, tied ones once, in the store's order."""

    def read(self, name: str) -> Tensor:
        """One tensor, detached, in its stored dtype; it may alias the stored memory: read only."""

    def transaction(self, *, staging: str = "memory") -> Transaction:
        """Begin a set of writes; new values wait in ``memory`` or on ``disk`` (a store on disk has no choice)."""


@runtime_checkable
class LiveStore(WeightStore, Protocol):
    """A store of live tensors, for which an optimizer, followers and module replacements have a meaning."""

    def tensor(self, name: str) -> Tensor:
        """The live tensor itself (the parameter object), by its name or an alias."""

    def replace_modules(self, modules: Mapping[str, nn.Module]) -> Callable[[], None]:
        """Put modules in place of those at these names and return a function that puts the old ones back."""
