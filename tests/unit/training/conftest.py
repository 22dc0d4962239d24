"""A tiny protocol and its data, and sessions and runs of it."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from replastic import data, methods
from replastic.data import Dataset, Splits
from replastic.networks import Network
from replastic.networks.mlp import Mlp
from replastic.streams.random_labels import RandomLabels
from replastic.training import Protocol, Trainer


@dataclass(frozen=True, kw_only=True)
class Dropper(Network):
    """A network that draws from the global generator while it trains and keeps statistics."""

    width: int = 16

    def module(self, sample_shape, classes):
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(64, self.width),
            nn.BatchNorm1d(self.width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Linear(self.width, classes),
        )


@pytest.fixture(scope="session")
def splits() -> Splits:
    draw = torch.Generator().manual_seed(0)
    whole = Dataset(torch.randn(200, 1, 8, 8, generator=draw), torch.randint(10, (200,), generator=draw), 10)
    return Splits(whole.take(torch.arange(160)), whole.take(torch.arange(160, 180)), whole.take(torch.arange(180, 200)))


@pytest.fixture
def protocol() -> Protocol:
    return Protocol(
        data="digits",
        stream=RandomLabels(tasks=3, images=50, steps=12),
        network=Mlp(hidden=(16, 16)),
        trainer=Trainer(batch_size=20),
        recipe="paper-cnn",
    )


@pytest.fixture
def dropping(protocol) -> Protocol:
    return replace(protocol, network=Dropper(), trainer=replace(protocol.trainer, evaluate_every=1))


@pytest.fixture
def base():
    return methods.from_spec("base")


@pytest.fixture(scope="session")
def digits() -> Splits:
    return data.load("digits")
