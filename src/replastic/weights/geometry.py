"""Cuts one stored weight into batches of matrices and puts it together again; every `merge` inverts its `split`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.weights.entries import MatrixInfo, View

REMEDY = "give the layout in a recipe rule, such as layout = {split = ['q', 'k', 'v'], sizes = [768, 256, 256]}"


@dataclass(frozen=True)
class LinearView(View):
    """One matrix: stored (d_out, d_in), or (d_in, d_out) when `transposed` (Hugging Face's Conv1D)."""

    transposed: bool = False
    kind = "linear"

    @property
    def layout(self) -> Mapping[str, Any]:
        """Whether the fan-out is the second axis."""
        return {"transposed": self.transposed}

    def infos(self, name: str, shape: Sequence[int]) -> tuple[MatrixInfo, ...]:
        """One batch of one matrix."""
        _require_axes(name, shape, 2)
        d_out, d_in = reversed(shape) if self.transposed else shape
        return (MatrixInfo(name, self.kind, 1, d_out, d_in),)

    def split(self, weight: Tensor) -> list[Tensor]:
        """The matrix with a batch axis; shares memory with the weight."""
        return [(weight.mT if self.transposed else weight).unsqueeze(0)]

    def merge(self, parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """The matrix without its batch axis, transposed back if the view is `transposed`."""
        (part,) = parts
        return part[0].mT if self.transposed else part[0]


@dataclass(frozen=True)
class ConvView(View):
    """One matrix per spatial tap and group: (C_out, C_in/g, *kernel) -> (taps * g, C_out/g, C_in/g).

    FIRE paper, section 4: each spatial slice is a matrix. Groups as batches are ours: a group is a layer of its own.
    """

    groups: int = 1
    kind = "conv"

    @property
    def layout(self) -> Mapping[str, Any]:
        """The number of groups, which the shape does not tell."""
        return {"groups": self.groups}

    def infos(self, name: str, shape: Sequence[int]) -> tuple[MatrixInfo, ...]:
        """One batch of taps times groups matrices."""
        _require_axes(name, shape, 3, 4, 5)
        if self.groups < 1 or shape[0] % self.groups:
            raise UserError(f"{name} has {shape[0]} channels, which {self.groups} groups do not divide")
        taps = math.prod(shape[2:])
        return (MatrixInfo(name, self.kind, taps * self.groups, *self._fans(shape), taps=taps),)

    def split(self, weight: Tensor) -> list[Tensor]:
        """The matrices ordered by tap, then by group."""
        grouped = torch.unflatten(weight, 0, (self.groups, -1))
        taps = grouped.permute(*range(3, grouped.ndim), 0, *self._order)
        return [taps.flatten(0, -3)]

    def merge(self, parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """The kernel; shares memory with the part."""
        (part,) = parts
        spatial = len(shape) - 2
        grouped = torch.unflatten(part, 0, (*shape[2:], self.groups))
        axes = (spatial, *(spatial + axis for axis in self._order), *range(spatial))
        return grouped.permute(axes).flatten(0, 1)

    @property
    def _order(self) -> tuple[int, int]:
        """Axes of fan-out and fan-in after the groups. The same order serves both directions."""
        return 1, 2

    def _fans(self, shape: Sequence[int]) -> tuple[int, int]:
        return shape[0] // self.groups, shape[1]


@dataclass(frozen=True)
class ConvTransposeView(ConvView):
    """A `ConvView` for kernels that are stored with the fan-in first: (C_in, C_out/g, *kernel)."""

    kind = "conv_transpose"

    @property
    def _order(self) -> tuple[int, int]:
        return 2, 1

    def _fans(self, shape: Sequence[int]) -> tuple[int, int]:
        return shape[1], shape[0] // self.groups


@dataclass(frozen=True)
class Block:
    """A number of consecutive rows of a fused weight."""

    name: str
    rows: int
    heads: int = 0
    """Number of heads, which is the number of its matrices if the view is `per_head`; 0 if unknown."""


@dataclass(frozen=True)
class FusedView(View):
    """Blocks of rows (fan-out), such as q, k, v. Each block is a batch: of one matrix, or of one for each head.

    The weight is stored (rows, d_in), or (d_in, rows) when `transposed`.
    """

    blocks: tuple[Block, ...]
    transposed: bool = False
    per_head: bool = False
    kind = "linear"
    axes = 2

    @property
    def layout(self) -> Mapping[str, Any]:
        """The blocks with their rows and, if known, their heads."""
        known: dict[str, Any] = {
            "split": tuple(b.name for b in self.blocks),
            "sizes": tuple(b.rows for b in self.blocks),
            "per_head": self.per_head,
            "transposed": self.transposed,
        }
        heads = [b.heads for b in self.blocks]
        return {**known, "heads": heads[0], "kv_heads": heads[-1]} if all(heads) else known

    def infos(self, name: str, shape: Sequence[int]) -> tuple[MatrixInfo, ...]:
        """One batch per block."""
        _require_axes(name, shape, self.axes)
        *stack, rows, d_in = (*shape[:-2], shape[-1], shape[-2]) if self.transposed else shape
        _require_rows(name, rows, self.blocks)
        if self.per_head:
            _require_heads(name, self.blocks)
        count = math.prod(stack)
        return tuple(
            MatrixInfo(name, self.kind, count * cuts, b.rows // cuts, d_in, block=b.name)
            for b, cuts in zip(self.blocks, self._cuts, strict=True)
        )

    def split(self, weight: Tensor) -> list[Tensor]:
        """The blocks in order; each shares memory with the weight if the strides allow it."""
        stack = self._stack(weight)
        pieces = torch.split(stack, [b.rows for b in self.blocks], dim=1)
        return [_to_heads(piece, cuts) for piece, cuts in zip(pieces, self._cuts, strict=True)]

    def merge(self, parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """The blocks below each other."""
        pieces = [_from_heads(part, cuts) for part, cuts in zip(parts, self._cuts, strict=True)]
        stack = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        return (stack.mT if self.transposed else stack).reshape(tuple(shape))

    @property
    def _cuts(self) -> tuple[int, ...]:
        return tuple(b.heads if self.per_head else 1 for b in self.blocks)

    def _stack(self, weight: Tensor) -> Tensor:
        weight = weight.mT if self.transposed else weight
        return weight if weight.ndim == 3 else weight.unsqueeze(0)


@dataclass(frozen=True)
class ExpertsView(FusedView):
    """A stack of matrices (experts, rows, d_in), each cut into the same blocks, such as gate and up."""

    interleaved: bool = False
    """Whether the rows of the blocks alternate: gate, up, gate, up, ..."""
    kind = "experts"
    axes = 3

    @property
    def layout(self) -> Mapping[str, Any]:
        """The blocks, and whether their rows alternate."""
        return {**super().layout, "interleaved": self.interleaved}

    def infos(self, name: str, shape: Sequence[int]) -> tuple[MatrixInfo, ...]:
        """One batch per block, with the experts as batch axis."""
        if self.interleaved and len({b.rows for b in self.blocks}) > 1:
            raise UserError(f"{name}: blocks whose rows alternate must have equally many; {REMEDY}")
        return super().infos(name, shape)

    def split(self, weight: Tensor) -> list[Tensor]:
        """The blocks in order, each with the experts as batch axis."""
        if not self.interleaved:
            return super().split(weight)
        stack, count = self._stack(weight), len(self.blocks)
        return [_to_heads(stack[:, i::count], cuts) for i, cuts in enumerate(self._cuts)]

    def merge(self, parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """The blocks below each other, or with alternating rows."""
        if not self.interleaved:
            return super().merge(parts, shape)
        pieces = [_from_heads(part, cuts) for part, cuts in zip(parts, self._cuts, strict=True)]
        stack = torch.stack(pieces, dim=2).flatten(1, 2)
        return stack.mT if self.transposed else stack


@dataclass(frozen=True)
class InterleavedView(View):
    """A fused qkv with rows in groups, one group per key/value head: its queries, then its key, then its value.

    If there are as many key/value heads as heads, the rows are (heads, 3, head_dim): the order of Megatron, GPT-NeoX
    and Bloom.
    """

    heads: int
    kv_heads: int
    per_head: bool = False
    transposed: bool = False
    kind = "linear"
    names = ("q", "k", "v")

    @property
    def layout(self) -> Mapping[str, Any]:
        """The heads and their order."""
        return {
            "split": self.names,
            "heads": self.heads,
            "kv_heads": self.kv_heads,
            "per_head": self.per_head,
            "transposed": self.transposed,
            "interleaved": True,
        }

    def infos(self, name: str, shape: Sequence[int]) -> tuple[MatrixInfo, ...]:
        """The batches q, k and v."""
        _require_axes(name, shape, 2)
        rows, d_in = reversed(shape) if self.transposed else shape
        slots = self.heads + 2 * self.kv_heads
        if self.heads % self.kv_heads or rows % slots:
            raise UserError(
                f"{name} has {rows} rows, which {self.heads} heads with {self.kv_heads} key/value heads do not divide; "
                "give heads and kv_heads in the layout of a recipe rule"
            )
        size = rows // slots
        counts = (self.heads, self.kv_heads, self.kv_heads)
        return tuple(
            MatrixInfo(name, self.kind, *((n, size) if self.per_head else (1, n * size)), d_in, block=block)
            for n, block in zip(counts, self.names, strict=True)
        )

    def split(self, weight: Tensor) -> list[Tensor]:
        """The matrices of q, k and v, each gathered from the groups."""
        groups = torch.unflatten(weight.mT if self.transposed else weight, 0, (self.kv_heads, self._slots, -1))
        parts = [p.flatten(0, 1) for p in torch.split(groups, [self._slots - 2, 1, 1], dim=1)]
        return [p if self.per_head else p.flatten(0, 1).unsqueeze(0) for p in parts]

    def merge(self, parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """The weight, with its rows in groups again."""
        slots = (self._slots - 2, 1, 1)
        groups = [
            p.reshape(self.kv_heads, n, -1, p.shape[-1])
            if self.per_head
            else torch.unflatten(p[0], 0, (self.kv_heads, n, -1))
            for p, n in zip(parts, slots, strict=True)
        ]
        rows = torch.cat(groups, dim=1).flatten(0, 2)
        return rows.mT if self.transposed else rows

    @property
    def _slots(self) -> int:
        return self.heads // self.kv_heads + 2


@dataclass(frozen=True)
class UnclearView(View):
    """A fused weight whose blocks are unknown. Every request for its matrices raises `problem`, with the remedy."""

    kind: str
    problem: str
    known: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> Mapping[str, Any]:
        """The known part of the layout. A rule's layout adds the missing part."""
        return self.known

    def infos(self, name: str, shape: Sequence[int]) -> tuple[MatrixInfo, ...]:
        """Raise the problem."""
        raise UserError(self.problem)

    def split(self, weight: Tensor) -> list[Tensor]:
        """Raise the problem."""
        raise UserError(self.problem)

    def merge(self, parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """Raise the problem."""
        raise UserError(self.problem)


def _to_heads(piece: Tensor, heads: int) -> Tensor:
    return torch.unflatten(piece, 1, (heads, -1)).flatten(0, 1) if heads > 1 else piece


def _from_heads(part: Tensor, heads: int) -> Tensor:
    return torch.unflatten(part, 0, (-1, heads)).flatten(1, 2) if heads > 1 else part


def _require_axes(name: str, shape: Sequence[int], *allowed: int) -> None:
    if len(shape) not in allowed:
        raise UserError(f"{name} has {len(shape)} axes, but this layout needs {' or '.join(map(str, allowed))}")


def _require_rows(name: str, rows: int, blocks: Sequence[Block]) -> None:
    total = sum(b.rows for b in blocks)
    if total != rows:
        sizes = ", ".join(f"{b.name or 'all'} {b.rows}" for b in blocks)
        raise UserError(f"{name} has {rows} rows, but its blocks ({sizes}) have {total}; {REMEDY}")


def _require_heads(name: str, blocks: Sequence[Block]) -> None:
    for b in blocks:
        if not b.heads or b.rows % b.heads:
            cut = f"which {b.heads} heads do not divide" if b.heads else "and nothing tells its number of heads"
            raise UserError(
                f"{name}: block {b.name or 'all'} has {b.rows} rows, {cut}; give heads in the layout of a recipe rule"
            )
