"""ResNet-18 for images of 32x32 pixels: a 3x3 stem without pooling, four stages of basic blocks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from replastic.networks._layers import convolution, head, image_shape
from replastic.networks._network import Network, register
from replastic.options import option


@register("resnet18", reference="https://arxiv.org/abs/1512.03385")
@dataclass(frozen=True, kw_only=True)
class ResNet18(Network):
    """Stem, stages of basic blocks that double in width, mean over the image, hidden layers, head.

    The defaults are the network of the FIRE paper for CIFAR-10. Reference: He et al. (2016), section 4.2, with the
    projection shortcut (option B) where a block changes the shape.
    """

    recipe: ClassVar[str] = "paper-cnn"

    width: int = option(64, help="channels of the stem and of the first stage", low=1)
    blocks: tuple[int, ...] = option(
        (2, 2, 2, 2),
        help="blocks of each stage; every stage but the first halves the image and doubles the channels",
        low=1,
        nonempty=True,
    )
    stem_stride: int = option(
        1, help="stride of the first convolution; 2 halves the image at once, for a quarter of the work", low=1
    )
    head: tuple[int, ...] = option((512,), help="widths of the hidden layers between the mean and the outputs", low=1)

    @classmethod
    def reduced(cls) -> ResNet18:
        """A size that one core trains on some 2000 CIFAR images a second."""
        return cls(width=16, blocks=(1, 1, 1, 1), stem_stride=2, head=(128,))

    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """Blocks ``stem``, ``stage1``... of ``block1``..., ``pool``, ``flatten``, ``hidden1``..., ``head``."""
        shrinks = self.stem_stride * 2 ** (len(self.blocks) - 1)
        why = f"a resnet18 of {len(self.blocks)} stages divides the image's sides by {shrinks}"
        channels, _, _ = image_shape(sample_shape, "resnet18", shrinks, why)
        layers: OrderedDict[str, nn.Module] = OrderedDict(stem=convolution(channels, self.width, self.stem_stride))
        c_in = self.width
        for index, count in enumerate(self.blocks):
            c_out = self.width * 2**index
            stage: OrderedDict[str, nn.Module] = OrderedDict()
            for number in range(1, count + 1):
                stage[f"block{number}"] = BasicBlock(c_in, c_out, stride=2 if index and number == 1 else 1)
                c_in = c_out
            layers[f"stage{index + 1}"] = nn.Sequential(stage)
        layers["pool"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers.update(head(c_in, self.head, classes))
        return nn.Sequential(layers)


class BasicBlock(nn.Module):
    """ReLU of two 3x3 convolutions with batch normalisation plus the input, projected where the shape changes."""

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(c_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or c_in != c_out:
            conv = nn.Conv2d(c_in, c_out, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(c_out)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) to (B, c_out, ceil(H / stride), ceil(W / stride))."""
        inside = functional.relu(self.norm1(self.conv1(x)))
        return functional.relu(self.norm2(self.conv2(inside)) + self.shortcut(x))
