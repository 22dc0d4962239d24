"""Which weights the measured networks have, as lists of shapes: nothing else about them matters to the solvers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """One weight: (d_out, d_in), or (d_out, d_in, kernel, kernel) for a convolution."""

    d_out: int
    d_in: int
    kernel: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stored weight."""
        return (self.d_out, self.d_in, self.kernel, self.kernel) if self.kernel else (self.d_out, self.d_in)


def resnet18() -> list[Layer]:
    """CIFAR-10: 3x3 stem, four stages of two basic blocks, head 512-512-10."""
    layers, channels = [Layer(64, 3, 3)], 64
    for width in (64, 128, 256, 512):
        layers += [Layer(width, channels, 3)] + [Layer(width, width, 3)] * 3
        if width != channels:
            layers.append(Layer(width, channels, 1))
        channels = width
    return [*layers, Layer(512, 512), Layer(10, 512)]


def vgg16() -> list[Layer]:
    """Tiny-ImageNet: thirteen convolutions on 64x64 pixels, head 2048-1024-1024-200."""
    widths = [64, 64, 128, 128, *[256] * 3, *[512] * 6]
    convolutions = [Layer(d_out, d_in, 3) for d_in, d_out in zip([3, *widths], widths, strict=False)]
    return [*convolutions, Layer(1024, 2048), Layer(1024, 1024), Layer(200, 1024)]


def vit_tiny() -> list[Layer]:
    """CIFAR-100: patches of 4x4x3, 12 blocks of width 192 with separate q, k, v; every Linear."""
    block = [Layer(192, 192)] * 4 + [Layer(768, 192), Layer(192, 768)]
    return [Layer(192, 48), *block * 12, Layer(100, 192)]


def vit_tiny_qk() -> list[Layer]:
    """The same network, query and key projections only."""
    return [Layer(192, 192)] * 24


def gpt2() -> list[Layer]:
    """GPT-2 124M: 12 blocks of width 768, c_attn split into q, k, v; head tied to the embedding of 50304 tokens."""
    block = [Layer(768, 768)] * 4 + [Layer(3072, 768), Layer(768, 3072)]
    return [*block * 12, Layer(50304, 768)]


MODELS = {
    "ResNet-18": (resnet18, 10),
    "VGG-16": (vgg16, 10),
    "ViT-Tiny": (vit_tiny, 10),
    "ViT-Tiny q, k": (vit_tiny_qk, 10),
    "GPT-2": (gpt2, 5),
}
"""Name -> (layers, Newton-Schulz steps its authors take)."""


def network(name: str) -> nn.Module:
    """A module that holds `weights(name)` and nothing else, for calls that want a module."""
    layers = nn.ModuleList()
    for w in weights(name):
        d_out, d_in, *kernel = w.shape
        layer = nn.Conv2d(d_in, d_out, kernel, bias=False) if kernel else nn.Linear(d_in, d_out, bias=False)
        layer.weight.data = w
        layers.append(layer)
    return layers


def weights(name: str, *, spikes: int = 4, seed: int = 0) -> list[Tensor]:
    """Weights as training leaves them, roughly: the default initialisation plus a few large rank-one directions."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for layer in MODELS[name][0]():
        fan_in = layer.d_in * max(1, layer.kernel) ** 2
        w = torch.randn(layer.shape, generator=generator) * (0.02 if name == "GPT-2" else (3 * fan_in) ** -0.5)
        if name != "GPT-2":
            spike_(w, generator, spikes)
        made.append(w)
    return made


def spike_(w: Tensor, generator: torch.Generator, spikes: int = 4) -> None:
    """Add rank-one directions to the matrices of a weight (d_out, d_in, *taps), as training does."""
    d_out, d_in, *taps = w.shape
    for _ in range(spikes):
        left = torch.randn(d_out, *taps, generator=generator)
        right = torch.randn(d_in, *taps, generator=generator)
        w += w.std() * (d_out * d_in) ** -0.25 * torch.einsum("o...,i...->oi...", left, right)
