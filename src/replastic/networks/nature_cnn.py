"""Nature CNN: the Q-network of DQN on Atari, three convolutions and one hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torch import nn

from replastic.errors import UserError
from replastic.networks._conv_stages import Kernel, conv_stages
from replastic.networks._network import Network, register
from replastic.options import option

KERNELS: Final[tuple[Kernel, ...]] = ((8, 4), (4, 2), (3, 1))


@register("nature_cnn", reference="https://doi.org/10.1038/nature14236")
@dataclass(frozen=True, kw_only=True)
class NatureCnn(Network):
    """Convolutions 8x8 by 4, 4x4 by 2 and 3x3 by 1 without padding, one hidden layer of 512, head; ReLU in between.

    Reference: Mnih et al. (2015), Methods, model architecture. Norms are an option that it does not have.
    """

    channels: tuple[int, ...] = option((32, 64, 64), help="channels of the three convolutions", low=1)
    hidden: tuple[int, ...] = option((512,), help="widths of the hidden layers", low=1)
    norm: str = option("none", help="norm before each ReLU", choices=("none", "layer"))

    def validate(self) -> None:
        """There are three convolutions."""
        if len(self.channels) != len(KERNELS):
            raise UserError(f"{self.name}: channels must be {len(KERNELS)} numbers, got {self.channels}")

    @classmethod
    def reduced(cls) -> NatureCnn:
        """Half the channels, a hidden layer of 128."""
        return cls(channels=(16, 32, 32), hidden=(128,))

    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """Blocks ``stage1`` to ``stage3``, ``flatten``, ``hidden1``, ``head``; images from 36x36 on."""
        return conv_stages(
            self.name,
            sample_shape,
            classes,
            kernels=KERNELS,
            channels=self.channels,
            hidden=self.hidden,
            norm=self.norm,
        )
