"""Two processes with a copy of one model each: `python two_ranks.py CASE RANK RENDEZVOUS`. Prints one JSON object."""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import replastic
from replastic.errors import UserError

Batch = tuple[Tensor, Tensor]


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3))


def batches(seed: int) -> list[Batch]:
    draw = torch.Generator().manual_seed(seed)
    return [(torch.randn(8, 6, generator=draw), torch.randint(3, (8,), generator=draw)) for _ in range(4)]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def wrapped(rank: int) -> None:
    """The usual loop: wrapped by DDP, trained on the process's own share, rewritten between two phases."""
    model = DistributedDataParallel(network())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for phase in range(2):
        for batch in batches(10 * phase + rank):
            optimizer.zero_grad()
            loss_fn(model, batch).backward()
            optimizer.step()
        replastic.fire_(model, optimizer)
    told(model)


def alone(rank: int) -> None:
    """Called in process 0 alone, while the other one trains on."""
    model = network()
    if rank == 0:
        replastic.fire_(model)


def late(rank: int) -> None:
    """The other process comes later, but it comes."""
    model = network()
    time.sleep(2.0 * rank)
    replastic.fire_(model)
    told(model)


def again(rank: int) -> None:
    """After a call in process 0 alone, all processes call."""
    model = network()
    try:
        alone(rank)
    except UserError:
        os.environ["REPLASTIC_PATIENCE"] = "60"
    time.sleep(4.0 * rank)
    replastic.fire_(model)
    replastic.fire_(model)
    told(model)


def apart(rank: int) -> None:
    """Models that were never brought to the same weights."""
    replastic.fire_(network(rank))


def shares(rank: int) -> None:
    """A method that reads data, and each process gives its own share."""
    replastic.apply_("dash", network(), batches=batches(rank), loss_fn=loss_fn)


def whole(rank: int) -> None:
    """The same, with the same data in each process."""
    model = network()
    replastic.apply_("dash", model, batches=batches(0), loss_fn=loss_fn)
    told(model)


def statistics(rank: int) -> None:
    """Statistics of batch norm differ from process to process, and that is no matter."""
    model = network()
    model(batches(rank)[0][0])
    replastic.fire_(model)
    told(model)


def independent(rank: int) -> None:
    """Each process has a model of its own, and says so; process 1 makes one call more."""
    for seed in range(1 + rank):
        replastic.fire_(network(rank + seed), ranks="independent")


def failing(rank: int) -> None:
    """One process cannot go on: it must not keep the other waiting."""
    model = network()
    if rank == 1:
        model[3].weight.data[0, 0] = float("nan")
    replastic.fire_(model)


def inside(rank: int) -> None:
    """A method that acts after updates, by what each process saw of its own share."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with replastic.during("redo:every=2,batches=1,dormancy_threshold=0.9", model, optimizer, **seen(rank)) as method:
        for batch in batches(rank):
            loss_fn(model, batch).backward()
            method.optimizer.step()
            method.after_update()


def seen(rank: int) -> dict[str, Any]:
    return {"batches": batches(rank), "loss_fn": loss_fn}


def triggered(rank: int) -> None:
    """Triggers decide alike, although each process sees losses and samples of its own."""
    model = DistributedDataParallel(network())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for trigger in ("dfi:interval=3,growth=1.001,floor=0.001,layers=0.1", "plateau:interval=2,patience=1,least=0.2"):
        with replastic.during(
            "fire", model, optimizer, trigger=trigger, batches=batches(rank), loss_fn=loss_fn
        ) as method:
            for batch in 6 * batches(rank):
                optimizer.zero_grad()
                loss = loss_fn(model, batch)
                loss.backward()
                optimizer.step()
                method.after_update(loss=loss)
            told_when = [(acted.step, acted.reason) for acted in method.acted]
        theirs: list[Any] = [None, None]
        distributed.all_gather_object(theirs, told_when)
        assert theirs[0] == theirs[1], theirs
        assert told_when, f"{trigger} never acted"
        told(model)


def told(model: nn.Module) -> None:
    """See by a collective that all processes hold the same parameters, bit for bit."""
    mine = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    theirs = [torch.empty_like(mine) for _ in range(2)]
    distributed.all_gather(theirs, mine)
    assert torch.equal(*theirs), "the processes diverged"


CASES: Iterable[Callable[[int], None]] = (
    wrapped, alone, late, again, apart, shares, whole, statistics, independent, failing, inside, triggered,
)  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    case, rank = {c.__name__: c for c in CASES}[sys.argv[1]], int(sys.argv[2])
    distributed.init_process_group("gloo", init_method=sys.argv[3], rank=rank, world_size=2)
    began, error = time.monotonic(), ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            case(rank)
        except UserError as problem:
            error = str(problem)
    sys.stdout.write(json.dumps({"error": error, "seconds": time.monotonic() - began}) + "\n")
    sys.stdout.flush()
    time.sleep(float(os.environ.get("LINGER", "0")) * (1 - rank))  # process 0 holds the store
    os._exit(0)
