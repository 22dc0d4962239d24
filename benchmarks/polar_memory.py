"""Peak memory of the polar factor beyond the weights themselves, one process per variant."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from pathlib import Path

from layer_lists import MODELS, weights
from measure import Row, arguments, publish

from reference import batched, loop

SOLVERS = ("newton_schulz", "exact", "iterative", "fast")
LARGE = "50304 x 768"
MIB = 2**20


def extra(name: str, variant: str) -> float:
    """MiB that a second run needs beyond what stood before it: rise of the resident set's high-water mark (Linux)."""
    import torch

    if name == LARGE:
        pile, num_iters = [torch.randn(50304, 768)], 5
    else:
        pile, num_iters = weights(name), MODELS[name][1]
    copy = [w.clone() for w in pile]
    run(variant, copy, num_iters)  # libraries load, compile and keep what they need for good
    del copy
    ctypes.CDLL(None).malloc_trim(0)  # what was freed must not hide what is taken next
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = resident("VmRSS")
    run(variant, pile, num_iters)
    return (resident("VmHWM") - before) / MIB


def run(variant: str, pile: list, num_iters: int) -> None:
    """Replace the weights by their factors."""
    if variant == "loop":
        loop(pile, num_iters)
    elif variant == "newton_schulz":
        batched(pile, variant, num_iters=num_iters)
    else:
        batched(pile, variant)


def resident(field: str) -> int:
    """Bytes, from the kernel's account of this process."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found.group(1))


def in_a_process(name: str, variant: str) -> float:
    """`extra` in a fresh interpreter."""
    command = [sys.executable, __file__, "--one", name, variant]
    # every tensor of 64 KiB or more is mapped on its own and unmapped when freed, so that the mark counts live ones
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["--one"]:
        print(extra(*sys.argv[2:4]))
        return
    options = arguments(__doc__, models=tuple(MODELS))
    rows = []
    for name in options.models:
        reference = in_a_process(name, "loop")
        rows.append(Row(name, "loop", reference, "MiB"))
        rows += [Row(name, s, in_a_process(name, s), "MiB", reference, "lower") for s in SOLVERS]
    rows.append(Row(LARGE, "loop", in_a_process(LARGE, "loop"), "MiB"))
    rows.append(Row(LARGE, "exact, in place", in_a_process(LARGE, "exact"), "MiB", 64.0, "lower"))
    publish("Peak memory beyond the weights", rows, options.json)


if __name__ == "__main__":
    main()
