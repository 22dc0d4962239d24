"""Fixtures that every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

DATA = Path(os.environ.get("REPLASTIC_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def pytest_configure() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and trained checkpoints beside the checkout."""
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA}; set REPLASTIC_TEST_DATA to the folder that holds it")
    return DATA
