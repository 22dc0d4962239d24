"""A record of what a write leaves alone, so that its undo can say what has changed since and is not put back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from itertools import islice

import torch
from torch import Tensor

from replastic.weights.entries import LiveStore
from replastic.weights.optimizer_state import OptimizerState
from replastic.weights.shards import local

NAMED = 3
"""Names that are listed of each kind."""
_MOMENTS = 8
"""Parameters whose optimizer state is watched: training changes that of all."""
_PART = 2**15
"""Numbers that are copied at a time, at least."""
_ROUNDING = 1e-12
"""Sums of the same numbers by another number of threads differ by less, relatively."""


class Witness:
    """Checksums of every tensor of a model that a write leaves alone, and of some of the optimizer's state.

    Args:
        store: The model, before or after the write.
        touched: Names of the tensors that are written.
        optimizer: What trains the model.
    """

    def __init__(self, store: LiveStore, touched: Collection[str], optimizer: OptimizerState) -> None:
        self._store = store
        self._touched = frozenset(n for e in store.entries() if e.name in touched for n in (e.name, *e.aliases))
        self._optimizer = optimizer
        self._before = self._tensors()
        self._sums = {n: _checksum(t) for n, t in self._before.items() if n not in self._touched}
        self._moments = [(values, _of_all(values())) for values in islice(optimizer.moments(), _MOMENTS)]

    def lost(self) -> list[str]:
        """In words, the differences from then in what was not written; call it after the undo."""
        now = self._tensors()
        since = [n for n, old in self._sums.items() if n in now and not _equal(_checksum(now[n]), old)]
        told = [
            ("weights that changed since", since),
            ("parameters that are gone", [n for n in self._before if n not in now]),
            ("parameters that were added", [n for n in now if n not in self._before]),
        ]
        lost = [f"{words} ({_listed(names)})" for words, names in told if names]
        if any(not _equal(_of_all(values()), old) for values, old in self._moments):
            lost.append("the optimizer's state of other parameters, which has changed since")
        replaced = [n for n in self._touched if n in now and now[n] is not self._before.get(n)]
        if self._optimizer and not all(self._optimizer.holds(now[n]) for n in replaced if now[n].requires_grad):
            lost.append("the optimizer's parameters, as the model has other ones since: make a new optimizer")
        return lost

    def _tensors(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for entry in self._store.entries():
            if not entry.derived and not entry.refusal:
                found |= {name: self._store.tensor(name) for name in (entry.name, *entry.aliases)}
        return found


def _of_all(values: Iterable[Tensor]) -> Tensor:
    sums = [_checksum(value).cpu() for value in values]
    return torch.cat(sums) if sums else torch.empty(0)


@torch.no_grad()
def _checksum(tensor: Tensor) -> Tensor:
    """The sum and the norm of a tensor, of which a small part at a time is copied. A shape (2,) on its device.

    A reduction in another dtype copies all that it is given, in that dtype. Of a sharded tensor the own part is taken.
    """
    tensor = local(tensor)
    dtype = torch.float32 if tensor.device.type == "mps" else torch.float64
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    total, norm = torch.zeros(2, dtype=dtype, device=tensor.device)
    for part in _parts(tensor):
        same = part.to(dtype)
        total, norm = total + same.sum(), torch.hypot(norm, torch.linalg.vector_norm(same))
        del same  # before the next one is made
    return torch.stack([total, norm])


def _parts(tensor: Tensor) -> Sequence[Tensor]:
    """Views of a tensor that make it up, cut along its longest axis: of `_PART` numbers, or a 64th of a large one."""
    if tensor.numel() <= _PART:
        return (tensor,)
    axis = max(range(tensor.dim()), key=lambda k: tensor.shape[k])
    row = tensor.numel() // tensor.shape[axis]
    return torch.split(tensor, max(1, max(_PART, tensor.numel() // 64) // row), dim=axis)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.cpu(), b.cpu(), rtol=_ROUNDING, atol=0, equal_nan=True)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
