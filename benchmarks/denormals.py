"""A step of Adam whose averages hold denormal numbers, as dormant units leave them, with and without flushing."""

from __future__ import annotations

import torch
from measure import Row, arguments, in_turn, publish, ratio

from replastic.denormals import flushed

SHAPES = ((128, 784), (128, 128), (128, 128), (128, 128), (10, 128))
SHARE = 0.12
"""Of the averages that are denormal: what `mnist_random_labels` was seen to have after its first tasks."""
STEPS = 50


def main() -> None:
    """Print the table."""
    options = arguments(__doc__)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator).requires_grad_() for shape in SHAPES]
    quiet = [torch.rand(shape, generator=generator) < SHARE for shape in SHAPES]
    optimizer = torch.optim.Adam(weights, lr=1e-3, fused=True)
    for weight, where in zip(weights, quiet, strict=True):
        weight.grad = torch.where(where, 0.0, torch.randn(weight.shape, generator=generator))

    def steps() -> None:
        for _ in range(STEPS):
            optimizer.step()

    def steps_flushed() -> None:
        with flushed():
            steps()

    def normal() -> None:
        put(1e-3)

    def denormal() -> None:
        put(1e-39)

    def put(value: float) -> None:
        for weight, where in zip(weights, quiet, strict=True):
            optimizer.state[weight]["exp_avg"][where] = value

    steps()
    found = {}
    for name, prepare in (("normal", normal), ("denormal", denormal)):
        found[name] = in_turn({"as it is": steps, "flushed": steps_flushed}, options.repeats, prepare)
    rows = [
        Row(f"Adam, {SHARE:.0%} of the averages {name}", "flushed against as it is", ratio(*times.values()), "x")
        for name, times in found.items()
    ]
    publish("Denormal numbers", rows, options.json)


if __name__ == "__main__":
    main()
