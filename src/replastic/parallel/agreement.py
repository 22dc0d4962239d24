"""Several processes with a copy of the same model: whether all are about to write the same into the same weights.

They ask each other through the store of the process group, with a wait that ends. A collective (`all_reduce` and the
like) will not do: where only one process asks, it would wait for ever, or meet a collective of the others' training.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed

from replastic.errors import UserError
from replastic.parallel.distributed import LostProcessError, is_distributed, rank, world_size

PATIENCE = 600.0
"""Seconds that a process waits for the others; `PATIENCE_VARIABLE` in the environment says otherwise."""
PATIENCE_VARIABLE = "REPLASTIC_PATIENCE"
TOLERANCE = 1e-4
"""Largest difference between two processes, as a share of a tensor's norm. Rounding stays far below it: 1e-7 in
float32, 1e-5 where single numbers of bfloat16 fall to the other side."""
_NOTICE = 15.0
"""Seconds after which a process says for whom it waits."""
_PROJECTIONS = 2
_NAMED = 3
_OWN = "if each process has a model of its own on purpose, pass ranks='independent'"

Sums = Mapping[str, Sequence[float]]
"""Checksums of tensors by name: the norm first."""


class MissingProcessError(UserError):
    """Only some processes of a group made a call."""


class _Calls:
    """How often this process has asked. All processes count alike, as a call that fails is not counted."""

    made = 0
    met: ClassVar[dict[tuple[int, ...], tuple[int, str]]] = {}
    """By group: how often its processes have met, and what this one said last."""


def checksum(tensor: Tensor) -> list[float]:
    """The norm of a tensor and its products with fixed random signs, which show a change anywhere in it."""
    if not tensor.numel():
        return [0.0] * (1 + _PROJECTIONS)
    flat = tensor.detach().reshape(tensor.shape[0] if tensor.ndim > 1 else tensor.numel(), -1)
    flat = torch.view_as_real(flat).flatten(1) if flat.is_complex() else flat
    found = [torch.linalg.vector_norm(flat.float())]
    for seed in range(_PROJECTIONS):
        rows, columns = (_signs(size, seed, tensor.device) for size in flat.shape)
        found.append(((flat * columns).sum(1, dtype=torch.float32) * rows).sum())
    return [float(value) for value in torch.stack(found).cpu()]


class Agreement:
    """The change that this process is about to write, compared with those of the others. It is a context manager.

    An error inside it, before `conclude`, tells the others that this process cannot go on.

    Args:
        wanted: Whether the processes have to agree. If not, or in a process that is alone, nothing here has an effect.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._pending = wanted and is_distributed() and world_size() > 1
        self._change: dict[str, list[float]] = {}

    def __enter__(self) -> Agreement:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._pending and isinstance(error, Exception) and not isinstance(error, MissingProcessError):
            self._pending = False
            with _reaching() as store:
                _say(store, "here", json.dumps(None))
                _say(store, "said", f"process {rank()} could not go on ({error})")
                _end(store)

    def note(self, name: str, value: Tensor) -> None:
        """Take a tensor that is to be written into account."""
        if self._pending:
            self._change[name] = checksum(value)

    def conclude(self, weights: Iterable[tuple[str, Tensor]], exactly: Sequence[object]) -> None:
        """Go on only if every process holds the same weights and is about to write the same; see `TOLERANCE`.

        Args:
            weights: The weights as they are, read only if there are others.
            exactly: What must be equal to the letter, such as the names of the tensors and the numbers of reset units.

        Raises:
            UserError: They differ, or a process has failed or not called. It is raised in every process that has.
            LostProcessError: The group's store cannot be reached.
        """
        if not self._pending:
            return
        self._pending = False
        content = ({name: checksum(value) for name, value in weights}, self._change, repr(exactly))
        mine, others = rank(), [r for r in range(world_size()) if r != rank()]
        with _reaching() as store:
            _say(store, "here", json.dumps(content if mine == 0 else None))
            _wait(store, "here", others)
            first = json.loads(_get(store, "here", 0))
            _say(store, "said", _difference(first, *content) if mine and first else "")
            _wait(store, "said", others)
            said = [_get(store, "said", r) for r in range(world_size())]
            _end(store)
        problem = next(filter(None, said), "")
        if problem:
            raise UserError(f"{problem}; nothing was written in any process; {_OWN}")


def mean(numbers: Tensor) -> Tensor:
    """The mean over the processes of some numbers, the same to the last bit in all of them.

    Shapes: (n,) float64 -> (n,). The processes have to call it alike; one that is alone gets its own numbers back.

    Raises:
        UserError: A process has not called, or gives another number of numbers.
        LostProcessError: The group's store cannot be reached.
    """
    if not is_distributed() or world_size() == 1:
        return numbers
    with _reaching() as store:
        _say(store, "numbers", json.dumps(numbers.tolist()))
        _wait(store, "numbers", [r for r in range(world_size()) if r != rank()])
        said = [json.loads(_get(store, "numbers", r)) for r in range(world_size())]
        _end(store)
    if len({len(one) for one in said}) > 1:
        counts = ", ".join(str(len(one)) for one in said)
        raise UserError(f"the processes of the group measured different networks: {counts} numbers; {_OWN}")
    return torch.tensor(said, dtype=torch.float64).mean(0)


def meet(ranks: Sequence[int], plan: str) -> None:
    """Go on when all processes of a group are at the same place, about to do the same.

    It comes before collectives, which wait without a word for a process that does not come.

    Args:
        ranks: The processes of the group, this one among them.
        plan: The thing they are about to do, equal in all of them.

    Raises:
        MissingProcessError: A process has not come.
        UserError: Another process is about to do something else.
        LostProcessError: The group's store cannot be reached.
    """
    others = [r for r in ranks if r != rank()]
    if not others:
        return
    count, before = _Calls.met.get(tuple(ranks), (0, ""))
    kind = f"met {'-'.join(map(str, ranks))} {count}"
    with _reaching() as store:
        _say(store, kind, plan)
        _wait(store, kind, others)
        different = [r for r in others if _get(store, kind, r) != plan]
        if before:
            store.delete_key(before)
    _Calls.met[tuple(ranks)] = count + 1, _key(kind, rank())
    if different:
        raise UserError(
            f"processes {rank()} and {different[0]} would rewrite different weights of a sharded model: give the call "
            "the same model and options in every process; nothing was written in any process"
        )


def _say(store: Any, kind: str, content: str) -> None:
    store.set(_key(kind, rank()), content)


def _end(store: Any) -> None:
    """Count this call, and remove what this process said in the one before, which all have left behind them."""
    _Calls.made += 1
    for kind in ("here", "said", "numbers") if _Calls.made > 1 else ():
        store.delete_key(_key(kind, rank(), ago=2))


def _difference(first: Any, weights: Sums, change: Sums, exactly: str) -> str:
    """The difference between this process and process 0, with the remedy; empty if there is none."""
    both, (their_weights, their_change, their_exactly) = f"processes 0 and {rank()}", first
    if their_weights.keys() != weights.keys():
        return f"{both} hold different models: weights that are sharded must be gathered before the call"
    apart = _apart(their_weights, weights)
    if apart:
        return (
            f"{both} hold different weights ({apart}): bring them to the same first, by torch.distributed.broadcast, "
            "or by training under DistributedDataParallel"
        )
    apart = _apart(their_change, change)
    if apart or exactly != their_exactly:
        return (
            f"{both} would write different values ({apart or 'other weights or units'}) into the same weights: give "
            "the call the same batches, seed and options in every process, not its own share of the data"
        )
    return ""


def _apart(theirs: Sums, mine: Sums) -> str:
    """Names of tensors that differ, the first few of them; empty if none does."""
    names = [name for name, sums in mine.items() if name in theirs and not _close(theirs[name], sums)]
    names += sorted(theirs.keys() ^ mine.keys())
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _close(a: Sequence[float], b: Sequence[float]) -> bool:
    allowed = TOLERANCE * max(abs(a[0]), abs(b[0]))
    return all(abs(x - y) <= allowed or repr(x) == repr(y) for x, y in zip(a, b, strict=True))


@lru_cache(maxsize=64)
def _signs(size: int, seed: int, device: torch.device) -> Tensor:
    draw = torch.Generator().manual_seed(seed * 1_000_003 + size)
    return (2.0 * torch.randint(2, (size,), generator=draw) - 1.0).to(device)


@contextmanager
def _reaching() -> Iterator[Any]:
    """The group's store; an error of its connection is told as such."""
    try:
        store = distributed.distributed_c10d._get_default_store()
    except (AttributeError, ValueError):
        raise UserError(
            f"this process group has no store through which processes could compare their weights; {_OWN}, or if you "
            "know that all are alike"
        ) from None
    try:
        yield store
    except RuntimeError as error:
        said = str(error).splitlines()[0]
        raise LostProcessError(f"the other processes of the group cannot be reached ({said})") from error


def _key(kind: str, process: int, ago: int = 0) -> str:
    return f"replastic/{_Calls.made - ago}/{kind}/{process}"


def _get(store: Any, kind: str, process: int) -> str:
    content: bytes = store.get(_key(kind, process))
    return content.decode()


def _wait(store: Any, kind: str, others: Sequence[int]) -> None:
    """Wait until all others have said so much; after that there is no more waiting."""
    until = time.monotonic() + float(os.environ.get(PATIENCE_VARIABLE, PATIENCE))
    missing, noticed = list(others), False
    while missing:
        left = until - time.monotonic()
        if left <= 0:
            for said in ("here", kind):
                store.delete_key(_key(said, rank()))
            raise MissingProcessError(
                f"only some processes of the group made this call: {_listed(missing)} did not within "
                f"{os.environ.get(PATIENCE_VARIABLE, f'{PATIENCE:g}')} seconds, and one copy of the model alone must "
                "not be rewritten. Call it in every process, not in one (`if rank == 0:`); nothing was written here; "
                f"{_OWN}"
            )
        pause = min(left, max(0.05, left) if noticed else _NOTICE)
        try:
            store.wait([_key(kind, r) for r in missing], timedelta(seconds=pause))
            return
        except RuntimeError:
            missing = [r for r in missing if not store.check([_key(kind, r)])]
        if missing and not noticed and left > _NOTICE:
            noticed = True
            warnings.warn(f"waiting for {_listed(missing)} of the group to make the same call", stacklevel=2)


def _listed(processes: Sequence[int]) -> str:
    more = f" and {len(processes) - _NAMED} more" if len(processes) > _NAMED else ""
    return f"process{'es' * (len(processes) > 1)} {', '.join(map(str, processes[:_NAMED]))}{more}"
