"""Runs of small networks trained as one, against two processes that train them one by one; the digits MLP.

Each variant has two processes with one thread each, as `replastic run --jobs 2` has, and they take turns round by
round. A value is the time of one update of one network in each process: the median over the rounds. In the last column
is how many times as fast the best number of networks is as the plain loop, and in brackets the update by hand: the
same network, one flat Adam over one buffer, no library.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection

import torch
from measure import Row, command_line, publish
from torch import Tensor
from torch.nn import functional

from replastic import benchmarks
from replastic.methods import Method
from replastic.training import stacked
from replastic.training.loop import Segment
from replastic.training.session import Session

WIDTHS = (32, 64, 128, 256)
SIZES = (1, 4, 8, 16)
GOAL = 3.0
"""Times as fast at width 64; the other widths have the goal of never being slower."""
HAND = 0


def sessions(width: int, count: int) -> list[Session]:
    """Runs of `digits_random_labels` with three hidden layers of that width, in their first phase."""
    protocol = benchmarks.get("digits_random_labels")().presets["demo"].protocol
    task = replace(protocol.task, network=replace(protocol.task.network, hidden=(width,) * 3))  # type: ignore[call-arg]
    protocol = replace(protocol, task=task)
    source, begun = task.open(), []
    for seed in range(count):
        session = Session(protocol, source, Method(), seed)
        session.begin(0)
        session.learner.begin(0, 0)
        begun.append(session)
    return begun


def by_library(width: int, count: int) -> Callable[[int], object]:
    """A function that makes so many updates of each of `count` networks: as one, or in the plain loop if it is one."""
    runs = sessions(width, count)

    def work(updates: int) -> None:
        segments = [Segment(session, 0, 0, updates, session.learner.extent(0)) for session in runs]
        if count == 1:
            segments[0].train()
        else:
            stacked.train(segments)

    return work


def by_hand(width: int) -> Callable[[int], object]:
    """The same updates of one network, with weights, gradients and moments in one buffer each."""
    (session,) = sessions(width, 1)
    pieces, trainer, model = session.learner.pieces(), session.protocol.trainer, session.model
    assert pieces is not None
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    slope, first, second, count = torch.zeros_like(weights), *torch.zeros(2, len(weights)), torch.zeros(())
    place = 0
    for p in model.parameters():
        part = slice(place, place + p.numel())
        p.data, p.grad = weights[part].view_as(p), slope[part].view_as(p)
        place += p.numel()

    def update(step: int, updates: int) -> Tensor:
        inputs, targets = pieces.take()
        slope.zero_()
        loss = functional.cross_entropy(model(inputs), targets)
        torch.autograd.backward(loss)
        slope.mul_((trainer.clip_norm / (torch.linalg.vector_norm(slope) + 1e-6)).clamp(max=1.0))
        count.add_(1)
        rate = trainer.learning_rate * trainer.rate(step, updates)
        settings = {"beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": 1e-8, "amsgrad": False, "maximize": False}
        torch._fused_adam_([weights], [slope], [first], [second], [], [count], lr=rate, **settings)  # type: ignore[arg-type]
        return loss.detach()

    return lambda updates: [update(step, updates) for step in range(updates)]


def serve(connection: Connection, width: int, updates: int) -> None:
    """Body of a process: time a variant whenever it is asked for; milliseconds of an update of one network."""
    torch.set_num_threads(1)
    variants = {size: by_library(width, size) for size in SIZES} | {HAND: by_hand(width)}
    while (size := connection.recv()) is not None:
        began = time.perf_counter()
        variants[size](updates)
        connection.send(1e3 * (time.perf_counter() - began) / updates / max(1, size))


def measured(width: int, rounds: int, updates: int) -> dict[int, list[float]]:
    """Milliseconds by variant and round, the mean of two processes that run it at the same time."""
    context, connections, processes = get_context("spawn"), [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        connections.append(ours)
        processes.append(context.Process(target=serve, args=(theirs, width, updates), daemon=True))
        processes[-1].start()
    found: dict[int, list[float]] = {size: [] for size in (HAND, *SIZES)}
    for number in range(rounds + 1):
        for size, values in found.items():
            for connection in connections:
                connection.send(size)
            both = [connection.recv() for connection in connections]
            if number:  # the first round warms up
                values.append(statistics.fmean(both))
    for connection, process in zip(connections, processes, strict=True):
        connection.send(None)
        process.join()
    return found


def main() -> None:
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--widths", nargs="+", type=int, default=list(WIDTHS))
    parser.add_argument("--updates", type=int, default=60, help="of every network, in each round")
    options = parser.parse_args()
    rows = []
    print("| width | by hand | plain loop | " + " | ".join(f"{n} as one" for n in SIZES[1:]) + " |", flush=True)
    print("|--:|" + "--:|" * (len(SIZES) + 1))
    for width in options.widths:
        found = measured(width, options.repeats, options.updates)
        medians = {size: statistics.median(values) for size, values in found.items()}
        print(f"| {width} | " + " | ".join(f"{value:.3f}" for value in medians.values()) + " |", flush=True)
        gain = {n: statistics.median(a / b for a, b in zip(found[1], found[n], strict=True)) for n in SIZES[1:]}
        best = max(gain, key=lambda n: gain[n])
        goal = GOAL if width == 64 else 1.0
        note = ", ".join(f"{n}: {value:.2f}x" for n, value in gain.items())
        rows.append(Row(f"width {width}", f"{best} as one", gain[best], "x plain loop", goal, note=note))
        over = statistics.median(a / b for a, b in zip(found[1], found[HAND], strict=True))
        rows.append(Row(f"width {width}", "plain loop", over, "x by hand", 1.3, better="lower"))
        print(f"width {width}: {gain[best]:.3g}x with {best}, {over:.3g}x by hand", file=sys.stderr, flush=True)
    publish("Small networks as one", rows, options.json, processes=2)


if __name__ == "__main__":
    main()
