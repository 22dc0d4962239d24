"""The network that the writer's tests write into."""

from __future__ import annotations

import pytest
import torch

from support.writing import Net


@pytest.fixture
def net() -> Net:
    """The network of `support.writing`, with known weights."""
    torch.manual_seed(0)
    return Net()
