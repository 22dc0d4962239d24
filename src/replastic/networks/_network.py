"""Networks as their sizes in a dataclass, from which the module is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from replastic.options import Settings
from replastic.registry import Registry
from replastic.seeds import drawing_from

Inputs = Literal["numbers", "tokens"]
"""Kinds of inputs: samples of numbers, such as images, or sequences of token ids."""


@dataclass(frozen=True, kw_only=True)
class Network(Settings, ABC):
    """An architecture. Subclasses are keyword-only frozen dataclasses whose fields are its sizes, each an `option`."""

    recipe: ClassVar[str] = ""
    """Recipe made for this architecture; empty if there is none."""
    inputs: ClassVar[Inputs] = "numbers"
    """The kind of its inputs: a learner offers the networks that fit its data."""

    @classmethod
    def reduced(cls) -> Network:
        """A size that one core trains in minutes; the default one, unless the architecture is too big for that."""
        return cls()

    @abstractmethod
    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """The module, initialised by torch's own rules from torch's global generator; use `build` instead.

        Args:
            sample_shape: Shape of one input.
            classes: Outputs of the layer called ``head``.

        Raises:
            UserError: The input does not fit the network.
        """


def build(network: Network, sample_shape: Sequence[int], classes: int, seed: int) -> nn.Module:
    """The module on the CPU with weights drawn from `seed`; the global generator is left as it was."""
    with drawing_from(seed):
        return network.module(sample_shape, classes)


REGISTRY: Registry[type[Network]] = Registry("network", "replastic.networks")
register, names, get, entry = REGISTRY.register, REGISTRY.names, REGISTRY.get, REGISTRY.entry
