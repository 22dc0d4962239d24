"""Speed and accuracy of `fire_` and the solvers on a device, beside the paper's formula in a plain loop on it.

All run in turn in one process, and the clock stops when the device has finished. Accuracy is that against float64
factors found on the CPU; the hard spectra are held against the float64 singular value decomposition.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import replace

import torch
from layer_lists import MODELS, spike_
from measure import Row, command_line, in_turn, publish, ratio
from torch import Tensor, nn

import replastic
from reference import loop, matrices
from replastic.linalg import polar, residual
from replastic.linalg.device import ON_A_GPU

GOAL = {"ResNet-18": 10.0, "ViT-Tiny": 10.0}
"""Least speed of `exact`, as a multiple of the loop's."""
SOLVERS = ("newton_schulz", "exact", "iterative", "fast")
SHAPES: Mapping[str, tuple[list[tuple[int, ...]], int]] = {
    "4096": ([(4096, 4096)] * 4, 10),
    "11008": ([(11008, 4096)] * 3, 10),
    "tiny": ([(16, 12), (12, 16), (8, 4, 3, 3)], 10),
}
"""Lists of shapes that are no network, and the steps of the loop."""
SPECTRA = (1e0, 1e3, 1e5, 1e7)
"""Condition numbers of 512 x 512 matrices whose factors are held against the float64 decomposition."""


def shapes(name: str) -> tuple[list[tuple[int, ...]], int]:
    """The weights of a model, and how many steps its authors take."""
    if name in SHAPES:
        return SHAPES[name]
    layers, steps = MODELS[name]
    return [layer.shape for layer in layers()], steps


def network(name: str, device: str) -> nn.Module:
    """A module with those weights alone: as drawn, and a few large directions."""
    draw = torch.Generator().manual_seed(0)
    layers = nn.ModuleList()
    for d_out, d_in, *kernel in shapes(name)[0]:
        layer = nn.Conv2d(d_in, d_out, kernel, bias=False) if kernel else nn.Linear(d_in, d_out, bias=False)
        with torch.no_grad():
            w = torch.randn(layer.weight.shape, generator=draw) * (3 * layer.weight[0].numel()) ** -0.5
            spike_(w, draw)
            layer.weight.copy_(w)
        layers.append(layer)
    return layers.to(device)


def variants(model: nn.Module, steps: int) -> dict[str, Callable[[], object]]:
    """What is timed, by name; each replaces the weights."""
    pile = [p.data for p in model.parameters()]
    work: dict[str, Callable[[], object]] = {"loop": lambda: loop(pile, steps)}
    for solver in SOLVERS:
        options = {"num_iters": steps} if solver == "newton_schulz" else {}
        work[solver] = lambda solver=solver, options=options: batched(pile, solver, **options)
    for solver in ("newton_schulz", "exact", "fast"):
        options = {"num_iters": steps} if solver == "newton_schulz" else {}
        work[f"fire_ {solver}"] = lambda solver=solver, options=options: replastic.fire_(
            model, solver=solver, recipe="paper-cnn", scale="unit", **options
        )
    return work


def batched(pile: list[Tensor], solver: str, **options: object) -> None:
    """`polar` on matrices of equal shape together."""
    groups: dict[torch.Size, list[Tensor]] = {}
    for w in pile:
        groups.setdefault(w.shape[:2], []).extend(matrices(w))
    for shape, group in groups.items():
        step = max(1, ON_A_GPU // shape.numel())
        for part in (group[k : k + step] for k in range(0, len(group), step)):
            for w, q in zip(part, polar(torch.stack(part), solver, **options).factor, strict=True):
                w.copy_(q)


@torch.no_grad()
def measure(name: str, device: str, repeats: int) -> list[Row]:
    """All variants on one list of weights."""
    model, steps = network(name, device), shapes(name)[1]
    pile = [p.data for p in model.parameters()]
    original = [w.clone() for w in pile]
    truth = [factor(w) for w in original]

    def prepare() -> None:
        for w, source in zip(pile, original, strict=True):
            w.copy_(source)
        wait(device)

    work = {v: (lambda f=f: (f(), wait(device))) for v, f in variants(model, steps).items()}
    seconds = in_turn(work, repeats, prepare)
    rows = []
    for variant in work:
        prepare()
        work[variant]()
        error, worst = accuracy(pile, truth)
        taken = f"{statistics.median(seconds[variant]) * 1e3:.3g} ms"
        goal = GOAL.get(name) if variant in ("exact", "fire_ exact") else None
        note = f"distance {error:.2g}, residual at most {worst:.2g}, {taken}"
        rows.append(Row(name, variant, ratio(seconds["loop"], seconds[variant]), "x", goal, note=note))
    return rows


def factor(w: Tensor) -> Tensor:
    """The factors of a weight's matrices, from eigenvectors in float64 on the CPU."""
    found = w.cpu().clone()
    matrices(found).copy_(polar(matrices(found).double(), "exact").factor)
    return found


def accuracy(pile: list[Tensor], truth: list[Tensor]) -> tuple[float, float]:
    """Relative distance of all factors together to the true ones, and the largest residual of a matrix."""
    error = sum(float((q.cpu().double() - t.double()).square().sum()) for q, t in zip(pile, truth, strict=True))
    norm = sum(float(t.double().square().sum()) for t in truth)
    return (error / norm) ** 0.5, max(float(residual(matrices(q)).max()) for q in pile)


def spectra(device: str, n: int) -> list[Row]:
    """Distance of each solver's factor to the float64 decomposition's, on hard spectra."""
    rows = []
    draw = torch.Generator().manual_seed(0)
    u, _, vh = torch.linalg.svd(torch.randn(n, n, generator=draw, dtype=torch.float64))
    for condition in SPECTRA:
        s = torch.logspace(0, -torch.tensor(condition).log10().item(), n, dtype=torch.float64)
        w = ((u * s) @ vh).float()
        left, _, right = torch.linalg.svd(w.double())
        for solver in ("exact", "iterative", "svd", "fast"):
            solved = polar(w.to(device), solver)
            gap = float(torch.linalg.norm(solved.factor.cpu().double() - left @ right)) / n**0.5
            note = f"residual {float(solved.residual):.2g}, alignment {float(solved.alignment):.8f}"
            rows.append(Row(f"distance, condition {condition:.0e}", solver, gap, "", note=note))
    return rows


def products(device: str, n: int) -> list[Row]:
    """Rates of a product in each dtype: what the device allows."""
    rows = []
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        a = torch.randn(n, n, device=device).to(dtype)
        taken = in_turn({"": lambda a=a: (a @ a, wait(device))}, 5, lambda: wait(device))[""]
        rate = 2 * n**3 / statistics.median(taken) / 1e12
        rows.append(Row("product", str(dtype).removeprefix("torch."), rate, "TFLOP/s"))
    return rows


def wait(device: str) -> None:
    """Until the device has done all it was given."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize()


def main() -> None:
    """Print the table."""
    parser = command_line(__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--models", nargs="+", choices=[*MODELS, *SHAPES], default=["ResNet-18", "ViT-Tiny"])
    options = parser.parse_args()
    small = options.models == ["tiny"]
    rows = products(options.device, 64 if small else 8192)
    for name in options.models:
        rows += measure(name, options.device, options.repeats)
    if not set(options.models) & {"4096", "11008"}:
        rows += spectra(options.device, 24 if small else 512)
    if torch.device(options.device).type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
        rows.append(replace(rows[0], what="peak memory", variant="", value=peak, unit="MiB"))
    publish("Polar factors on a device", rows, options.json, device=options.device)


if __name__ == "__main__":
    main()
