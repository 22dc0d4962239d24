"""Peak memory of the polar factor beyond the weights themselves, one process per variant."""

from __future__ import annotations

import sys

import torch
from layer_lists import MODELS, weights
from measure import Row, arguments, publish
from memory import fresh_process, peak

from reference import batched, loop

SOLVERS = ("newton_schulz", "exact", "iterative", "fast")
LARGE = "50304 x 768"


def extra(name: str, variant: str) -> float:
    """MiB that a second run needs beyond what stood before it."""
    if name == LARGE:
        pile, num_iters = [torch.randn(50304, 768)], 5
    else:
        pile, num_iters = weights(name), MODELS[name][1]
    copy = [w.clone() for w in pile]
    run(variant, copy, num_iters)
    del copy
    return peak(lambda: run(variant, pile, num_iters))


def run(variant: str, pile: list, num_iters: int) -> None:
    """Replace the weights by their factors."""
    if variant == "loop":
        loop(pile, num_iters)
    elif variant == "newton_schulz":
        batched(pile, variant, num_iters=num_iters)
    else:
        batched(pile, variant)


def in_a_process(name: str, variant: str) -> float:
    """`extra` in a fresh interpreter."""
    return float(fresh_process(__file__, "--one", name, variant))


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
