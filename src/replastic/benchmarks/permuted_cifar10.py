"""CIFAR-10 with its pixels in another order in every task: does the network learn the last order as the first?"""

from __future__ import annotations

from replastic.experiments import tasks
from replastic.experiments.spec import BenchmarkSpec, register
from replastic.streams.permuted_pixels import PermutedPixels


@register("permuted_cifar10", reference="https://arxiv.org/abs/2606.09762")
def permuted_cifar10() -> BenchmarkSpec:
    """Tasks of CIFAR-10 with permuted pixels; score: accuracy on the task's own images at its end."""
    return tasks.scored_on_own_images(
        "permuted_cifar10",
        PermutedPixels(tasks=40, steps=300, scored_on="train"),
        data="cifar10",
        small="cifar10:train=1200,test=1000",
        short="cifar10:train=200,test=100",
    )
