"""Page faults and processor time of an update, with and without the setting under which a process keeps freed memory.

    OMP_NUM_THREADS=1 python benchmarks/page_faults.py --preset paper --updates 2 --repeats 2

Experiments run in processes with that setting (`replastic.memory.keep_freed_memory`). Each measurement is a process of
its own, and the loops take turns. Processor time is used, since other work on the machine does not count in it.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
from collections import defaultdict

from measure import Row, command_line, publish
from plain_loop import Files, Plain
from vision_throughput import Library

from replastic import benchmarks
from replastic.memory import keep_freed_memory

LOOPS = ("plain", "float32", "bfloat16+channels_last")
WARM = 2
"""Updates before the measurement."""


def main() -> None:
    """Measure one loop, if this is such a process; else start them and print the table."""
    parser = command_line(__doc__ or "")
    parser.set_defaults(repeats=3)
    parser.add_argument("--preset", choices=("small", "paper"), default="small", help="network and batch")
    parser.add_argument("--data", default="cifar10", help="images, as replastic run --data takes them")
    parser.add_argument("--loops", nargs="+", default=list(LOOPS))
    parser.add_argument("--updates", type=int, default=10, help="updates that are measured")
    parser.add_argument("--one", choices=("kept", "given back"), help="measure the one loop in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.loops[0], options.preset, options.data, options.updates, options.one)))
        return
    found: dict[tuple[str, str], list[list[float]]] = defaultdict(list)
    for _ in range(options.repeats):
        for loop in options.loops:
            for setting in ("given back",) if loop == "plain" else ("given back", "kept"):
                settings = ["--preset", options.preset, "--data", options.data, "--updates", str(options.updates)]
                command = [sys.executable, __file__, "--loops", loop, "--one", setting, *settings]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                found[loop, setting].append(json.loads(done.stdout.splitlines()[-1]))
    plain = (
        statistics.median(seconds for seconds, _, _ in found["plain", "given back"]) if "plain" in options.loops else 0
    )
    rows = []
    for (loop, setting), values in found.items():
        seconds, faults, peak = (statistics.median(column) for column in zip(*values, strict=True))
        name = f"{loop}, freed memory {setting}"
        rows.append(Row("page faults of an update", name, faults, ""))
        rows.append(Row("processor time of an update", name, 1e3 * seconds, "ms", note=f"peak {peak / 1e9:.2f} GB"))
        if plain and loop != "plain":
            rows.append(Row("speed / plain", name, plain / seconds, "x"))
    publish(f"Page faults, preset {options.preset}", rows, options.json)


def measured(loop: str, preset: str, data: str, updates: int, setting: str) -> tuple[float, float, float]:
    """Processor seconds and page faults of an update, and the peak of resident memory in bytes."""
    if setting == "kept":
        keep_freed_memory()
    protocol = benchmarks.get("vision_warm_start")().on(data).presets[preset].protocol
    splits = protocol.task.open("cpu")
    total = WARM + updates
    contestant: Plain | Library
    if loop == "plain":
        contestant = Plain(protocol, splits.train, Files(splits.train), 0, total, "cpu", 0)
    else:
        contestant = Library(protocol, splits, loop, 0, total, "cpu")
    contestant.advance(WARM)
    before = resource.getrusage(resource.RUSAGE_SELF)
    contestant.advance(updates)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds / updates, (after.ru_minflt - before.ru_minflt) / updates, 1024.0 * after.ru_maxrss


if __name__ == "__main__":
    main()
