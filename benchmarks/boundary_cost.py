"""Time and peak memory of every method that acts at a boundary, on the paper's networks at full size.

Each method and network has a process of its own. The images are random bytes: what they show costs nothing, only how
many there are, for the methods that read them (DASH and the like). The FIRE paper, on a GPU and all of CIFAR-10: FIRE
0.06 s and 55 MB, DASH 69 s and 2834 MB.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from layer_lists import spike_
from measure import Row, command_line, publish
from memory import fresh_process, peak

from replastic import benchmarks, methods
from replastic.data import Dataset, Pixels, Splits
from replastic.training import Protocol
from replastic.training.session import Session

SIZES = {"cifar10": (32, 10), "cifar100": (32, 100), "tiny_imagenet": (64, 200)}
"""Pixels a side and classes, by data set; networks, recipes and tuned methods are those of the presets ``paper``."""
SOLVERS = ("fire:solver=exact", "fire:solver=fast")
"""Measured beside the tuned methods, fire's own ten Newton-Schulz steps among them."""


def protocol(data: str) -> Protocol:
    """The paper's warm start on a data set."""
    return benchmarks.get("vision_warm_start")().others[data]["paper"].protocol


def specs(data: str) -> list[str]:
    """The paper's methods, as tuned for a data set, that act at a boundary."""
    known = (*benchmarks.get("vision_warm_start")().others[data]["paper"].methods, *SOLVERS)
    return [spec for spec in known if methods.from_spec(spec).acts_between_phases]


def noise(side: int, classes: int, count: int, device: str) -> Splits:
    """Random images: `count` to train on, and none that matter beside them."""
    generator = torch.Generator().manual_seed(0)
    pixels = Pixels(torch.full((3,), 0.5), torch.full((3,), 0.25))
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    train = Dataset(images, torch.arange(count) % classes, classes, pixels)
    return Splits(train, train.first(0), train.first(1)).to(device)


@dataclass
class Cost:
    """What one crossing took."""

    seconds: float
    mib: float
    images: int
    """Images read on the way, each as often as it was read."""


def cost(plan: Protocol, spec: str, splits: Splits, device: str, repeats: int) -> list[Cost]:
    """The proposal and its writing, `repeats` times, each on a network of its own.

    Setting the method up is not counted. A first time warms up and is dropped.
    """
    costs = []
    for k in range(repeats + 1):
        with Session(plan, splits, methods.from_spec(spec), k, device) as session:
            spike_matrices(session, k)
            session.inform(1)
            session.attached.begin(0)
            costs.append(Crossing(session, device).measured())
    return costs[1:]


def spike_matrices(session: Session, seed: int) -> None:
    """Leave the matrices roughly as training does."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for entry in session.attached.run.store.entries():
            if entry.view is not None:
                weight = session.model.get_parameter(entry.name)
                spiked = weight.cpu()
                spike_(spiked, generator)
                weight.copy_(spiked)


class Crossing:
    """A boundary about to be crossed: notes how long it takes and how many images the method reads."""

    def __init__(self, session: Session, device: str) -> None:
        self.session, self.device = session, device
        self.seconds, self.images = 0.0, 0
        run = session.attached.run
        run.batches, run.past_batches = self.counting(run.batches), self.counting(run.past_batches)

    def counting(self, one_pass: Callable[[], Iterable[Any]]) -> Callable[[], Iterator[Any]]:
        """The same pass over data, counted."""

        def counted() -> Iterator[Any]:
            for batch in one_pass():
                self.images += len(batch[1])
                yield batch

        return counted

    def measured(self) -> Cost:
        """Cross it."""
        mib = peak(self.timed, self.device)
        return Cost(self.seconds, mib, self.images)

    def timed(self) -> None:
        """Let the method propose and write what it proposes."""
        start = time.perf_counter()
        self.session.attached.cross(1)
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize()
        self.seconds = time.perf_counter() - start


def rows_of(data: str, options: argparse.Namespace) -> list[Row]:
    """All methods on one network, one process after the other: times, then memory."""
    name = f"{protocol(data).task.architecture}, {data}"
    times, memory = [], []
    for spec in options.methods or specs(data):
        asked = ("--images", str(options.images), "--device", options.device, "--repeats", str(options.repeats))
        costs = [Cost(**c) for c in json.loads(fresh_process(__file__, *asked, "--one", data, spec))]
        read = f"reads {costs[0].images} images" if costs[0].images else ""
        seconds = [c.seconds for c in costs]
        best = f"{min(seconds):.3g} s at best"
        note = f"{best}; {read}" if read else best
        times.append(Row(f"{name}: time", spec, statistics.median(seconds), "s", note=note))
        memory.append(Row(f"{name}: memory", spec, statistics.median(c.mib for c in costs), "MiB", note=read))
        print(f"{name} {spec}: {times[-1].value:.3g} s, {memory[-1].value:.3g} MiB", file=sys.stderr, flush=True)
    return [*times, *memory]


def main() -> None:
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--data", nargs="+", choices=SIZES, default=list(SIZES), help="by data set, whose network")
    parser.add_argument("--methods", nargs="+", help="specs; by default all that act at a boundary, tuned as the paper")
    parser.add_argument("--images", type=int, default=256, help="training images, for methods that read them")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", nargs=2, metavar=("DATA", "METHOD"), help="measure this in this process, print JSON")
    options = parser.parse_args()
    if options.one:
        data, spec = options.one
        splits = noise(*SIZES[data], options.images, options.device)
        print(json.dumps([asdict(c) for c in cost(protocol(data), spec, splits, options.device, options.repeats)]))
        return
    rows = [row for data in options.data for row in rows_of(data, options)]
    device = torch.cuda.get_device_name() if torch.device(options.device).type == "cuda" else "cpu"
    publish("Cost of a boundary", rows, options.json, device=device, images=options.images)


if __name__ == "__main__":
    main()
