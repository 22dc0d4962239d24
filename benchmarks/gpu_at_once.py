"""How many runs should share one device: updates a second of all together, for one process, two and more at once."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import torch
from boundary_cost import noise
from measure import Row, command_line, publish
from torch.multiprocessing import get_context

from replastic import benchmarks
from replastic.data import Splits
from replastic.training import Protocol, speed
from replastic.training.speed import Trial

WARM = 5
GAIN = 1.05
"""One run more must give so many times the updates to be worth its memory."""


def protocol(preset: str) -> Protocol:
    """The warm start on CIFAR-10."""
    return benchmarks.get("vision_warm_start")().presets[preset].protocol


def images(device: str) -> Splits:
    """Random bytes in the shape of CIFAR-10: what they show costs nothing."""
    return noise(32, 10, 2000, device)


def trained(preset: str, settings: dict[str, Any], device: str, updates: int, barrier: Any, results: Any) -> None:
    """Body of a process: seconds of its updates, which begin when all processes are ready."""
    torch.set_num_threads(1)
    plan = protocol(preset)
    trial = Trial(replace(plan, trainer=replace(plan.trainer, **settings)), images(device), device)
    trial.seconds(WARM)
    barrier.wait()
    began = time.perf_counter()
    trial.seconds(updates)
    results.put(time.perf_counter() - began)


def together(count: int, preset: str, settings: dict[str, Any], device: str, updates: int) -> float:
    """Updates a second of so many processes at once, all together."""
    context = get_context("spawn")
    barrier, results = context.Barrier(count), context.Queue()
    given = (preset, settings, device, updates, barrier, results)
    crew = [context.Process(target=trained, args=given, daemon=True) for _ in range(count)]
    for process in crew:
        process.start()
    taken = [results.get(timeout=300) for _ in crew]
    for process in crew:
        process.join()
    return count * updates / max(taken)


def best(rates: dict[int, float]) -> int:
    """The smallest number of runs that is hardly slower, together, than any other."""
    limit = max(rates.values()) / GAIN
    return min(count for count, rate in rates.items() if rate >= limit)


def main() -> None:
    """Print the table; the JSON file also has `jobs` and the `flags` of the settings chosen."""
    parser = command_line(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--preset", choices=("smoke", "paper"), default="paper")
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 2, 3, 4])
    parser.add_argument("--updates", type=int, default=100)
    options = parser.parse_args()
    choice = speed.choose(protocol(options.preset), images(options.device), options.device, compiled=False)
    settings = dict(choice.settings)
    rates = {n: together(n, options.preset, settings, options.device, options.updates) for n in options.counts}
    rows = [Row("one update", name, value, "ms") for name, value in choice.table.items()]
    rows += [Row("updates a second", f"{n} at once", rate, "/s") for n, rate in rates.items()]
    publish("Runs at once on one device", rows, options.json, device=options.device, settings=speed.in_words(settings))
    if options.json is not None:
        flags = ["--precision", settings["precision"], *(["--channels-last"] if settings["channels_last"] else [])]
        content = json.loads(options.json.read_text(encoding="utf-8")) | {"jobs": best(rates), "flags": flags}
        options.json.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
