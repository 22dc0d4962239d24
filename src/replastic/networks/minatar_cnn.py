"""MinAtar CNN: the Q-network of DQN on MinAtar, one convolution and one hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from replastic.networks._conv_stages import conv_stages
from replastic.networks._network import Network, register
from replastic.options import option


@register("minatar_cnn", reference="https://arxiv.org/abs/1903.03176")
@dataclass(frozen=True, kw_only=True)
class MinAtarCnn(Network):
    """A 3x3 convolution without padding to 16 channels, a hidden layer of 128, head; ReLU in between.

    Reference: Young and Tian (2019), section 4, and their code. Norms, and further layers, are options of ours.
    """

    channels: tuple[int, ...] = option((16,), help="channels of the convolutions, 3x3 each", low=1, nonempty=True)
    hidden: tuple[int, ...] = option((128,), help="widths of the hidden layers", low=1)
    norm: str = option("none", help="norm before each ReLU", choices=("none", "layer"))

    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """Blocks ``stage1``, ..., ``flatten``, ``hidden1``, ..., ``head``."""
        return conv_stages(
            self.name,
            sample_shape,
            classes,
            kernels=((3, 1),) * len(self.channels),
            channels=self.channels,
            hidden=self.hidden,
            norm=self.norm,
        )
