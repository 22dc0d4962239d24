"""A tiny protocol and its data, and sessions of it; conftest.py files import the fixtures by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

from replastic import data, methods
from replastic.data import Dataset, Splits
from replastic.learners import Trainer
from replastic.learners.classification import Classification
from replastic.methods import Method
from replastic.networks import Network
from replastic.networks.mlp import Mlp
from replastic.records import RunDirectory
from replastic.streams.random_labels import RandomLabels
from replastic.training import Protocol
from replastic.training.session import Session


@dataclass(frozen=True, kw_only=True)
class Dropper(Network):
    """A network that draws from the global generator while it trains and keeps statistics."""

    width: int = 16

    def module(self, sample_shape: tuple[int, ...], classes: int) -> nn.Module:
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
        task=Classification(
            data="digits", stream=RandomLabels(tasks=3, images=50, steps=12), network=Mlp(hidden=(16, 16))
        ),
        trainer=Trainer(batch_size=20),
        recipe="paper-cnn",
    )


@pytest.fixture
def dropping(protocol: Protocol) -> Protocol:
    return trained_by(with_task(protocol, network=Dropper()), evaluate_every=1)


@pytest.fixture
def base() -> Method:
    return methods.from_spec("base")


@pytest.fixture(scope="session")
def digits() -> Splits:
    return data.load("digits")


def with_task(protocol: Protocol, **changes: Any) -> Protocol:
    """The protocol with other fields of its task."""
    return replace(protocol, task=replace(protocol.task, **changes))


def trained_by(protocol: Protocol, **changes: Any) -> Protocol:
    """The protocol with other fields of its trainer."""
    return replace(protocol, trainer=replace(protocol.trainer, **changes))


@contextmanager
def begun(protocol: Protocol, source: Any, method: Method, seed: int = 0) -> Iterator[Session]:
    """A session in its first phase, the method on if the protocol says so, and no update made."""
    with Session(protocol, source, method, seed) as session:
        session.begin(0)
        yield session


def steps(session: Session, phase: int, count: int, done: int = 0) -> list[float]:
    """Losses of `count` updates at the full learning rate, of a phase of which `done` lie behind."""
    session.model.train()
    session.learner.begin(phase, done)
    return [float(session.update(1, 1)) for _ in range(count)]


def content(directory: RunDirectory) -> list[dict[str, Any]]:
    """Records of a run without its processor time."""
    return [{k: v for k, v in record.items() if k != "seconds"} for record in directory.records()]
