"""The scripts of the folder benchmarks/ as modules."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Function (name) -> the script."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module
