"""The small network and its data, as fixtures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support import training_bench


@pytest.fixture
def build() -> Callable[..., Any]:
    """Function (dtype, layout) -> a network a few steps away from its initial state, and that state."""
    return training_bench.build


@pytest.fixture
def batches() -> Callable[..., Any]:
    """Function () -> the batches of a phase, the same at every call."""
    return lambda: training_bench.data(0)


@pytest.fixture
def loss() -> Callable[..., Any]:
    """Mean loss of a model on a batch."""
    return training_bench.loss_fn
