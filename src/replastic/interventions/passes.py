"""Passes over data: as often as they are asked for, and in a random order for methods that depend on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from replastic.errors import UserError
from replastic.seeds import generator

Batches = Callable[[], Iterable[Any]]
"""Gives one pass over the data at each call."""
_LEAST = 16
"""Labels at the end of a pass that are compared with all: those of the last batch, and of earlier ones if it has fewer.
"""
_FAR = 9.0
"""How many times farther than random labels would be, in the mean, those at the end may lie from all (ours)."""


@runtime_checkable
class Reorderable(Protocol):
    """Batches of a data set that can give the same samples in another order."""

    def shuffled(self, draw: torch.Generator) -> Iterable[Any]:
        """Batches of equal size, of samples in a drawn order."""


def as_passes(batches: Batches | Iterable[Any]) -> tuple[Batches, int]:
    """Give one pass over the data at each call, and the number of its batches; 0 where that is not known.

    Raises:
        UserError: It is neither an iterable of batches nor a function that returns one.
    """

    def one_pass() -> Iterable[Any]:
        found = batches() if callable(batches) else batches
        if not isinstance(found, Iterable):
            raise UserError(
                "batches must be an iterable of batches, such as a DataLoader, or a function that returns one, "
                f"got {type(found).__name__}"
            )
        return found

    count = len(batches) if isinstance(batches, Sized) else 0
    return one_pass, count


def in_random_order(batches: Iterable[Any], seed: int, *purpose: str | int) -> Iterable[Any]:
    """The samples of a pass in a drawn order, in batches of equal size; what does not fill a batch is left out.

    Args:
        batches: One pass. Samples are shuffled if it is `Reorderable`, a `DataLoader` that reads a data set from
            beginning to end, or a list of batches. Anything else comes in its own order: a `DataLoader` that shuffles
            does so itself.
        seed: Seed of the order.
        purpose: Of the seed; see `seeds.derive`.
    """
    draw = generator(seed, *purpose)
    if isinstance(batches, Reorderable):
        return batches.shuffled(draw)
    if type(batches) is DataLoader:
        return _reloaded(batches, draw) if _is_sequential(batches) else batches
    return _pooled(batches, draw) if isinstance(batches, list | tuple) else batches


class LabelWatch:
    """Looks at the labels of a pass: whether those at its end are like all, as they are in a random order.

    Labels are the last tensor of a batch that has one axis and holds whole numbers. With the share q of each class at
    the end, among n labels, and its share p in the whole pass, the end is odd if sum (q - p)^2 is over 9 times
    (1 - sum p^2) / n, its mean for labels drawn at random. For two classes that is three standard deviations. The end
    is the last batch, with labels from before it where it has fewer than 16.
    """

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self._end: list[int] = []

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, looked at on their way."""
        for batch in batches:
            labels = _labels(batch)
            self._counts.update(labels)
            self._end = [*self._end, *labels][-max(_LEAST, len(labels)) :]
            yield batch

    @property
    def odd_end(self) -> str:
        """How the labels at the end differ, in words; empty if they do not."""
        end, n, total = Counter(self._end), len(self._end), sum(self._counts.values())
        if n < _LEAST:
            return ""
        shares = {label: count / total for label, count in self._counts.items()}
        distance = sum((end[label] / n - share) ** 2 for label, share in shares.items())
        if distance * n <= _FAR * (1 - sum(share**2 for share in shares.values())):
            return ""
        classes = "one class" if len(end) == 1 else f"{len(end)} classes"
        return f"the last {n} labels are of {classes}, in other shares than the {total} of all {len(shares)} classes"


def _labels(batch: Any) -> list[int]:
    """The labels of a batch; none if it holds nothing that looks like labels."""
    leaves = [leaf for leaf in tree_flatten(batch)[0] if isinstance(leaf, Tensor) and leaf.dim() == 1]
    whole = [leaf for leaf in leaves if not leaf.is_floating_point() and not leaf.is_complex()]
    return whole[-1].tolist() if whole else []


def _is_sequential(loader: DataLoader[Any]) -> bool:
    return type(loader.sampler) is SequentialSampler and type(loader.batch_sampler) is BatchSampler


def _reloaded(loader: DataLoader[Any], draw: torch.Generator) -> DataLoader[Any]:
    """The same loader with another order."""
    order = torch.randperm(len(loader.sampler), generator=draw).tolist()  # type: ignore[arg-type]
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        sampler=order,
        drop_last=len(order) >= (loader.batch_size or 1),
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


def _pooled(batches: Sequence[Any], draw: torch.Generator) -> Iterator[Any]:
    """Samples of all batches in a drawn order; the batches as they are in one, where samples do not fit together."""
    trees = [tree_flatten(batch) for batch in batches]
    columns = list(zip(*(leaves for leaves, _ in trees), strict=False))
    if not _fit_together(trees):
        for index in torch.randperm(len(batches), generator=draw).tolist():
            yield batches[index]
        return
    whole = [torch.cat(column) for column in columns]
    size = max(len(leaves[0]) for leaves, _ in trees)
    order = torch.randperm(len(whole[0]), generator=draw)
    for first in range(0, max(1, len(order) // size) * size, size):
        index = order[first : first + size]
        yield tree_unflatten([leaf[index.to(leaf.device)] for leaf in whole], trees[0][1])


def _fit_together(trees: Sequence[tuple[list[Any], Any]]) -> bool:
    """Whether the batches are tensors with as many samples each, and those of one place differ in no other axis."""
    if not trees or not trees[0][0]:
        return False
    kinds = set()
    for leaves, structure in trees:
        if not all(isinstance(leaf, Tensor) and leaf.dim() for leaf in leaves):
            return False
        if len({len(leaf) for leaf in leaves}) > 1:
            return False
        kinds.add((str(structure), tuple((leaf.shape[1:], leaf.dtype, leaf.device) for leaf in leaves)))
    return len(kinds) == 1
