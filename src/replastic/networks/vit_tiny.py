"""ViT-Tiny: a vision transformer with separate query, key and value projections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic.errors import UserError
from replastic.networks._layers import image_shape
from replastic.networks._network import Network, register
from replastic.options import option

_TOKEN_STD = 0.02
"""Standard deviation of class token and positions at initialisation."""


@register("vit_tiny", reference="https://arxiv.org/abs/2010.11929")
@dataclass(frozen=True, kw_only=True)
class VitTiny(Network):
    """Patches, class token, learned positions, pre-norm transformer blocks, norm and head on the class token.

    The defaults are the network of the FIRE paper for CIFAR-100. Reference: Dosovitskiy et al. (2021), section 3.1,
    without dropout. As in the FIRE paper, queries, keys and values have a projection each, without bias.
    """

    recipe: ClassVar[str] = "paper-vit"

    patch: int = option(4, help="side of a square patch, in pixels", low=1)
    dim: int = option(192, help="width of a token", low=1)
    depth: int = option(12, help="number of blocks", low=1)
    heads: int = option(3, help="attention heads; each has dim / heads units", low=1)
    mlp: int = option(768, help="width of a block's hidden layer", low=1)

    def validate(self) -> None:
        """Every head has as many units as the others."""
        if self.dim % self.heads:
            raise UserError(f"{self.name}: dim must be a multiple of heads, got {self.dim} and {self.heads}")

    @classmethod
    def reduced(cls) -> VitTiny:
        """A size that one core trains on some 1500 CIFAR images a second."""
        return cls(patch=8, dim=96, depth=4, heads=3, mlp=192)

    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """`VisionTransformer` for images of this shape."""
        why = f"a vit_tiny cuts the image into patches of {self.patch}x{self.patch} pixels"
        channels, height, width = image_shape(sample_shape, "vit_tiny", self.patch, why)
        if height % self.patch or width % self.patch:
            raise UserError(
                f"{why}, so that both sides must be multiples of {self.patch}; the images have {height}x{width}: "
                "choose another patch"
            )
        return VisionTransformer(self, channels, (height // self.patch) * (width // self.patch), classes)


class VisionTransformer(nn.Module):
    """Blocks ``patches``, ``cls_token``, ``position``, ``block1``..., ``norm``, ``head``."""

    def __init__(self, sizes: VitTiny, channels: int, count: int, classes: int) -> None:
        super().__init__()
        self.patch = sizes.patch
        self.patches = nn.Linear(channels * sizes.patch**2, sizes.dim)
        self.cls_token = nn.Parameter(_TOKEN_STD * torch.randn(1, 1, sizes.dim))
        self.position = nn.Parameter(_TOKEN_STD * torch.randn(1, 1 + count, sizes.dim))
        self.blocks = [f"block{number}" for number in range(1, sizes.depth + 1)]
        for name in self.blocks:
            self.add_module(name, Block(sizes.dim, sizes.heads, sizes.mlp))
        self.norm = nn.LayerNorm(sizes.dim)
        self.head = nn.Linear(sizes.dim, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, C, H, W) to outputs (B, classes)."""
        tokens = self.patches(cut(x, self.patch))
        tokens = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), tokens), dim=1) + self.position
        for name in self.blocks:
            tokens = self.get_submodule(name)(tokens)
        outputs: Tensor = self.head(self.norm(tokens[:, 0]))
        return outputs


class Block(nn.Module):
    """Attention and a hidden layer with GELU, each with a norm before it and added to its input."""

    def __init__(self, dim: int, heads: int, mlp: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, mlp)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, dim) to the same shape."""
        tokens = tokens + self.attention(self.norm1(tokens))
        outputs: Tensor = tokens + self.mlp(self.norm2(tokens))
        return outputs


class Attention(nn.Module):
    """Softmax attention of every token to every token, in heads of dim / heads units."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, dim) to the same shape."""
        q, k, v = (
            torch.unflatten(projection(tokens), 2, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q, self.k, self.v)
        )
        mixed = functional.scaled_dot_product_attention(q, k, v)
        outputs: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return outputs


class Mlp(nn.Module):
    """One hidden layer with GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, dim) to the same shape."""
        outputs: Tensor = self.fc2(functional.gelu(self.fc1(tokens)))
        return outputs


def cut(images: Tensor, patch: int) -> Tensor:
    """Cut images into flat patches, row by row.

    Shapes: (B, C, H, W) -> (B, H/patch * W/patch, C * patch * patch); H and W are multiples of `patch`.
    """
    strips = torch.unflatten(images, 2, (-1, patch))  # (B, C, rows, patch, W)
    grid = torch.unflatten(strips, 4, (-1, patch))  # (B, C, rows, patch, columns, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
