"""Speed and accuracy of the polar factor of whole networks, against a plain loop of the paper's formula."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext

import torch
from backend import fastest_backend
from layer_lists import MODELS, network, weights
from measure import Row, command_line, in_turn, publish, ratio
from torch import Tensor, nn

import replastic
from reference import batched, loop, matrices
from replastic.linalg import polar, residual

MEASURED = ("ResNet-18", "VGG-16", "ViT-Tiny", "GPT-2")
GOALS = {
    "newton_schulz": dict.fromkeys(MEASURED, 1.8),
    "newton_schulz, fastest backend": dict.fromkeys(MEASURED, 1.8),
    "fast": dict.fromkeys(MEASURED, 4.0),
    "exact": dict.fromkeys(MEASURED, 1.5),
    "exact, fastest backend": dict.fromkeys(MEASURED, 1.5),
    "iterative, fastest backend": {},
    "loop, fastest backend": {},
    "fire_ newton_schulz": {},
    "fire_ exact": {},
}
"""Least speed, as a multiple of the loop's, by variant and network. ``fire_`` is the library's whole call: it finds the
layers, checks, measures, keeps the old weights for undo and writes all or nothing."""

RESIDUAL_OF_EXACT = 1e-8


def run(variant: str, model: nn.Module, num_iters: int) -> None:
    """Replace the weights of a model by their factors."""
    what, _, backend = variant.partition(", ")
    solver = what.removeprefix("fire_ ")
    options = {"num_iters": num_iters} if solver == "newton_schulz" else {}
    pile = [p.data for p in model.parameters()]
    with fastest_backend() if backend else nullcontext():
        if solver == "loop":
            loop(pile, num_iters)
        elif solver != what:
            replastic.fire_(model, solver=solver, recipe="paper-cnn", scale="unit", **options)
        else:
            batched(pile, solver, **options)


def accuracy(pile: list[Tensor], truth: list[Tensor]) -> tuple[float, float]:
    """Distance of all factors together to the true ones, relative, and the largest residual of a matrix."""
    error = sum(float((q.double() - t.double()).square().sum()) for q, t in zip(pile, truth, strict=True))
    norm = sum(float(t.double().square().sum()) for t in truth)
    return (error / norm) ** 0.5, max(float(residual(matrices(q)).max()) for q in pile)


def measure(name: str, repeats: int, variants: list[str], clock: Callable[[], float]) -> list[Row]:
    """The plain loop and some variants on one network."""
    original = weights(name)
    num_iters = MODELS[name][1]
    truth = [w.clone() for w in original]
    for w in truth:
        matrices(w).copy_(polar(matrices(w).double(), "exact").factor)
    model = network(name)
    pile = [p.data for p in model.parameters()]

    def prepare() -> None:
        for w, source in zip(pile, original, strict=True):
            w.copy_(source)

    variants = ["loop", *variants]
    work = {v: (lambda v=v: run(v, model, num_iters)) for v in variants}
    seconds = in_turn(work, repeats, prepare, clock)
    rows, rough = [], 0.0
    for variant in variants:
        prepare()
        work[variant]()
        distance, worst = accuracy(pile, truth)
        note = f"distance {distance:.2g}, residual at most {worst:.2g}, {min(seconds[variant]):.3g} s at best"
        goal = GOALS.get(variant, {}).get(name)
        rows.append(Row(name, variant, ratio(seconds["loop"], seconds[variant]), "x", goal, note=note))
        rough = distance if variant == "loop" else rough
        if variant.startswith("fast"):
            rows.append(Row(name, "fast: distance / the loop's", distance / rough, "", 1.0, "lower"))
        if variant == "exact":
            rows.append(Row(name, "exact: residual", worst, "", RESIDUAL_OF_EXACT, "lower"))
    return rows


def main() -> None:
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--models", nargs="+", choices=tuple(MODELS), default=list(MODELS))
    parser.add_argument("--variants", nargs="+", choices=tuple(GOALS), default=list(GOALS))
    parser.add_argument(
        "--processor-time", action="store_true", help="count the processor's time: for one thread on a busy machine"
    )
    options = parser.parse_args()
    clock = time.process_time if options.processor_time else time.perf_counter
    rows: list[Row] = []
    for name in options.models:
        rows += measure(name, options.repeats, options.variants, clock)
    with fastest_backend() as setting:
        facts = {"fastest_backend": setting, "load": f"{os.getloadavg()[0]:.1f}", "products": products()}
        publish("Speed of the polar factor", rows, options.json, **facts)


def products() -> str:
    """GFLOP/s of a 1024 x 1024 product in each precision, under the setting in force: what the hardware allows."""
    rates = []
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        a = torch.randn(1024, 1024).to(dtype)
        best = min(in_turn({"": lambda a=a: a @ a}, 5, lambda: None)[""])
        rates.append(f"{str(dtype).removeprefix('torch.')} {2 * 1024**3 / best / 1e9:.0f} GFLOP/s")
    return "; ".join(rates)


if __name__ == "__main__":
    main()
