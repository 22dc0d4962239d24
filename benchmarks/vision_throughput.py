"""Images a second of the training loop beside a plain one, in turn in one process, and whether both learn the same.

The plain loop is float32 and contiguous, and a DataLoader decodes and normalises image by image; the library's runs
with each of the settings asked for. For the loss curves all start from the same weights and see the same batches.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import torch
from measure import Row, command_line, in_turn, publish, ratio
from plain_loop import Files, Plain, stream
from torch import Tensor

from replastic import benchmarks, methods
from replastic.data import Splits
from replastic.learners._supervised import SupervisedLearner
from replastic.report.statistics import paired_difference
from replastic.training import Protocol
from replastic.training.session import Session

GOALS = {"cpu": 3.0, "cuda": 10.0}
"""Least speed of the library's best setting, as a multiple of the plain loop's."""
SETTINGS = ("float32", "channels_last", "bfloat16", "bfloat16+channels_last")
OPERATORS = 10
"""That are listed with their shares."""
WINDOW = 25
"""Updates over which a loss curve is averaged."""


class Library:
    """The library's own updates, on bytes that are normalised a batch at a time."""

    def __init__(self, protocol: Protocol, splits: Splits, setting: str, seed: int, updates: int, device: str) -> None:
        self.protocol = replace(protocol, trainer=replace(protocol.trainer, **words(setting)))
        self.session = Session(self.protocol, splits, methods.from_spec("base"), seed, device)
        learner = self.session.learner
        assert isinstance(learner, SupervisedLearner)
        learner.stream = lambda phase, first: stream(splits.train, self.protocol.trainer, seed)  # type: ignore
        learner.begin(0, 0)
        self.updates, self.done = updates, 0

    def advance(self, updates: int) -> Tensor:
        """Train on; the losses (updates,), on the CPU."""
        self.session.model.train()
        steps = range(self.done, self.done + updates)
        losses = [self.session.update(step, self.updates) for step in steps]
        self.done = steps.stop
        return torch.stack(losses).cpu()


def words(setting: str) -> dict[str, object]:
    """The trainer's fields for a setting such as ``bfloat16+channels_last``."""
    given = set(setting.split("+"))
    unknown = given - {"float32", "bfloat16", "channels_last", "compiled"}
    if unknown:
        raise SystemExit(f"unknown setting {', '.join(unknown)}: join float32, bfloat16, channels_last, compiled by +")
    precision = "bfloat16" if "bfloat16" in given else "float32"
    return {"precision": precision, "channels_last": "channels_last" in given, "compiled": "compiled" in given}


def throughput(
    protocol: Protocol,
    splits: Splits,
    *,
    settings: Sequence[str],
    workers: Sequence[int],
    updates: int,
    repeats: int,
    device: str,
) -> list[Row]:
    """Images a second of every contestant, and the library's as multiples of the plain loop's."""
    total, files = updates * (repeats + 1), Files(splits.train)
    plain = {f"plain, {n} workers": Plain(protocol, splits.train, files, 0, total, device, n) for n in workers}
    library = {f"library, {s}": Library(protocol, splits, s, 0, total, device) for s in settings}
    work = {n: (lambda loop=loop: loop.advance(updates)) for n, loop in {**plain, **library}.items()}
    seconds = in_turn(work, repeats, lambda: None)
    for loop in plain.values():
        loop.close()
    images = updates * min(protocol.trainer.batch_size, len(splits.train))
    rows = [
        Row("images a second", n, images / statistics.median(s), "/s", note=spread(s, images))
        for n, s in seconds.items()
    ]
    for base in plain:
        ratios = {n: ratio(seconds[base], seconds[n]) for n in library}
        best = max(ratios, key=lambda n: ratios[n])
        goal = GOALS[torch.device(device).type]
        rows += [Row(f"speed / {base}", n, r, "x", goal if n == best else None) for n, r in ratios.items()]
    return rows


def shares(protocol: Protocol, splits: Splits, setting: str, updates: int, device: str) -> list[Row]:
    """The operators that take most of an update, each with its share of the time of all."""
    library = Library(protocol, splits, setting, 0, 2 * updates, device)
    library.advance(updates)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        library.advance(updates)
    found = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in found)
    return [
        Row(f"share of an update, {setting}", event.key, 100 * event.self_cpu_time_total / total, "%", note=note)
        for event in found[:OPERATORS]
        for note in [f"{event.count / updates:.0f} calls"]
    ]


def spread(seconds: Sequence[float], images: int) -> str:
    """The slowest and the fastest round."""
    return f"rounds from {images / max(seconds):.4g} to {images / min(seconds):.4g}"


def curves(
    protocol: Protocol,
    splits: Splits,
    *,
    settings: Sequence[str],
    seeds: int,
    updates: int,
    workers: int,
    device: str,
) -> list[Row]:
    """Losses of the plain loop, and by how much the library's differ: mean over seeds, window by window.

    The verdict is on one number, the mean over the whole curve: its paired difference with a t interval.
    """
    files = Files(splits.train)
    names = ("plain", *settings)
    losses: dict[str, list[Tensor]] = {name: [] for name in names}
    for seed in range(seeds):
        with closing(Plain(protocol, splits.train, files, seed, updates, device, workers)) as plain:
            losses["plain"].append(plain.advance(updates))
        for setting in settings:
            losses[setting].append(Library(protocol, splits, setting, seed, updates, device).advance(updates))
    stacked = {name: torch.stack(losses[name]).double() for name in names}
    rows = [row for setting in settings for row in compared(setting, stacked)]
    first = [Row(*what, mean, "") for what, mean in windows("plain", stacked["plain"])]
    return [*first, *rows]


def windows(name: str, losses: Tensor) -> list[tuple[tuple[str, str], float]]:
    """Mean losses (seeds, updates) of each window, and what to call them."""
    parts = losses.split(WINDOW, dim=1)
    ends = [min((k + 1) * WINDOW, losses.shape[1]) for k in range(len(parts))]
    return [
        ((f"loss, updates {k * WINDOW + 1} to {end}", name), float(part.mean()))
        for k, (part, end) in enumerate(zip(parts, ends, strict=True))
    ]


def compared(setting: str, losses: Mapping[str, Tensor]) -> list[Row]:
    """The curve of a setting, and its difference to the plain loop's."""
    means = {name: dict(enumerate(losses[name].mean(1).tolist())) for name in (setting, "plain")}
    difference = paired_difference(means[setting], means["plain"])
    assert difference is not None
    rows = [Row(*what, mean, "") for what, mean in windows(setting, losses[setting])]
    seeds = float(losses["plain"].mean(1).std()) if difference.n > 1 else float("nan")
    equal = {"not settled": "equal within noise", "higher": "HIGHER", "lower": "LOWER"}
    interval = "" if difference.low is None else f"[{difference.low:.2g}, {difference.high:.2g}], "
    note = f"{interval}{equal.get(difference.verdict, difference.verdict)}; seeds of the plain loop vary by {seeds:.2g}"
    rows.append(Row("loss - plain, all updates", setting, difference.mean, "", note=note))
    return rows


def main() -> None:
    """Print the tables."""
    parser = command_line(__doc__)
    parser.add_argument(
        "--preset", choices=("small", "paper"), default="small", help="network and batch of which preset"
    )
    parser.add_argument("--data", default="cifar10", help="images, as replastic run --data takes them")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), help="words joined by +, also compiled")
    parser.add_argument(
        "--workers", nargs="+", type=int, default=[0, 2], help="processes of the plain loop's DataLoader"
    )
    parser.add_argument("--updates", type=int, default=50, help="updates of each contestant in a round")
    parser.add_argument("--curve", type=int, default=150, help="updates of the loss curves; 0 leaves them out")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of the loss curves")
    parser.add_argument("--profile", action="store_true", help="also which operators take the time of the last setting")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    protocol = benchmarks.get("vision_warm_start")().on(options.data).presets[options.preset].protocol
    splits = protocol.task.open(options.device)
    rows = throughput(
        protocol,
        splits,
        settings=options.settings,
        workers=options.workers,
        updates=options.updates,
        repeats=options.repeats,
        device=options.device,
    )
    if options.profile:
        rows += shares(protocol, splits, options.settings[-1], options.updates, options.device)
    if options.curve:
        rows += curves(
            protocol,
            splits,
            settings=options.settings,
            seeds=options.seeds,
            updates=options.curve,
            workers=options.workers[-1],
            device=options.device,
        )
    cuda = torch.device(options.device).type == "cuda"
    publish(
        "Training throughput",
        rows,
        options.json,
        device=torch.cuda.get_device_name() if cuda else "cpu",
        network=protocol.task.in_words(),
        batch=protocol.trainer.batch_size,
    )


if __name__ == "__main__":
    main()
