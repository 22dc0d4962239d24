"""The vocabulary of this room: stored weights, the matrices in them, and the stores that hold them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from replastic.weights.change import LayerOutcome, Proposal

UndoStep = Callable[[], Sequence[str] | None]
"""Takes a change back, and returns what it could not put back, in words."""


@dataclass(frozen=True)
class MatrixInfo:
    """A batch of equally shaped matrices inside one weight, such as the taps of a convolution or the q of a fused qkv.

    Matrices always have the shape (batch, d_out, d_in), with fan-out `d_out` and fan-in `d_in`. `batch` is the number
    of taps of a convolution (outermost) times its groups, or the number of heads or experts.
    """

    weight: str
    """Name of the parameter, such as ``layer1.0.conv1.weight``."""
    kind: str
    """``linear``, ``conv``, ``conv_transpose``, ``experts``; ``vector`` for biases and norms, which are no matrices."""
    batch: int
    d_out: int
    d_in: int
    taps: int = 1
    """Spatial positions of a convolution's kernel (kh * kw); 1 for any other weight."""
    block: str = ""
    """Name of the part of a fused weight: ``q``, ``k``, ``v``, ``gate``, ``up``; empty for a weight in one part."""
    role: str = ""
    """`WeightEntry.role`, filled in for the matrices that a method solves; a view by itself does not know it."""

    @property
    def label(self) -> str:
        """Name for messages and records: the weight's, with the block in brackets."""
        return f"{self.weight}[{self.block}]" if self.block else self.weight


class View(ABC):
    """A reversible way to see one stored weight as one or more batches of matrices; `weights.geometry` has them all.

    `merge` is the inverse of `split`. Both only move numbers and do not change them.
    """

    kind: str
    """``linear``, ``conv``, ``conv_transpose`` or ``experts``."""

    @property
    def layout(self) -> Mapping[str, Any]:
        """The `layout` of a recipe's rule that describes this view. The keys of a rule replace these."""
        return {}

    @abstractmethod
    def infos(self, name: str, shape: Sequence[int]) -> tuple[MatrixInfo, ...]:
        """The batches of matrices in a weight of that name and shape.

        Raises:
            UserError: The shape cannot be divided as the view needs; the message names the weight.
        """

    @abstractmethod
    def split(self, weight: Tensor) -> list[Tensor]:
        """The batches, each (batch, d_out, d_in). They may share memory with `weight`, so do not change them."""

    @abstractmethod
    def merge(self, parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """The inverse of `split`: a tensor of `shape` in the dtype of the parts."""


@dataclass(frozen=True)
class WeightEntry:
    """One stored tensor and its properties. Tied tensors have one entry, and `aliases` are their other names."""

    name: str
    """Name in the state dict, without the prefixes of wrappers such as `torch.compile`."""
    shape: tuple[int, ...]
    """Stored shape. The view says which matrices it holds."""
    dtype: torch.dtype
    """Stored dtype."""
    role: str
    """``matrix`` (a hidden weight), ``head``, ``embedding``, ``router``, ``depthwise``, ``adapter``, ``norm``,
    ``bias``, ``buffer`` or ``other``."""
    view: View | None
    """The view of its matrices; None for a tensor that holds none."""
    aliases: tuple[str, ...] = ()
    """Other names of the same tensor."""
    trainable: bool = True
    """Whether training changes it. Most methods leave frozen parameters and buffers alone."""
    refusal: str = ""
    """The reason why it must not be written, with the remedy; empty if it may be written."""
    layer: str = ""
    """Kind of its layer's matrices: ``linear`` for the bias of a Linear, too. `select` fills it in."""
    output: str = ""
    """Why it is taken as an output layer; empty if it is none. An embedding that is tied to one is both."""
    derived: bool = False
    """Whether it is computed from other tensors of the store (a parametrization). Only those can be written."""
    sharded: bool = False
    """Whether each of several processes holds a part of it alone (a DTensor); `weights.shards` knows which."""
    known_by: str = ""
    """Source of its view: the caller's layout, a recipe's rule, a known class, its module's type, names and shapes."""


class Transaction(Protocol):
    """A set of writes that happens whole or not at all. It is a context manager; an error inside it aborts."""

    def __enter__(self) -> Transaction: ...
    def __exit__(self, *error: object) -> None: ...

    def prepare(self) -> None:
        """See that the writes are possible, before the first value is computed."""

    def stage(self, name: str, value: Tensor, layers: Sequence[LayerOutcome] = ()) -> None:
        """Keep the new value of one tensor, of any dtype; the store casts it once. Nothing is visible yet.

        `layers` is what is reported of the value, for a store that keeps it with the value.
        """

    def commit(self) -> UndoStep:
        """Make every staged value visible, and return a function that restores the old values."""


class WeightStore(Protocol):
    """A place that holds weights: a live module (`ModuleStore`) or a checkpoint on disk (`CheckpointStore`)."""

    def entries(self) -> Sequence[WeightEntry]:
        """Every parameter and buffer, in the store's order; tied tensors are one entry."""

    @property
    def tells_outputs(self) -> bool:
        """Whether the model itself, or its config, says which layers give its outputs, or that it has none of these."""

    def read(self, name: str) -> Tensor:
        """One tensor, detached, in its stored dtype. It may share the stored memory, so do not change it."""

    def transaction(self, *, staging: str = "memory") -> Transaction:
        """Begin a set of writes. New values wait in ``memory`` or on ``disk``; a store on disk always uses the disk."""


@runtime_checkable
class StoreOnDisk(WeightStore, Protocol):
    """A store of files. Reading takes time there, and so long a piece of work that it may be killed."""

    def expect(self, order: Sequence[str], work: str) -> None:
        """Be told which tensors will be read in which order, and a text that two calls share if they do the same."""

    def kept(self, name: str) -> Proposal | None:
        """The new value of a tensor if an earlier call, which was killed, had computed it; None otherwise."""


@runtime_checkable
class LiveStore(WeightStore, Protocol):
    """A store of live tensors, which can have an optimizer and followers, and whose modules can be replaced."""

    def tensor(self, name: str) -> Tensor:
        """The live tensor itself (the parameter object), by its name or an alias."""

    def replace_modules(self, modules: Mapping[str, nn.Module]) -> UndoStep:
        """Replace the modules of these names, and return a function that puts the old ones back."""
