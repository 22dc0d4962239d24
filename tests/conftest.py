"""Fixtures that every test may use."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from replastic.errors import UserError
from replastic.interventions.method import REGISTRY as METHODS
from replastic.metrics._metric import REGISTRY as METRICS

DATA = Path(os.environ.get("REPLASTIC_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def pytest_configure() -> None:
    torch.set_num_threads(1)
    settings.register_profile("replastic", deadline=None)  # tests prove values; a busy machine fails none of them
    settings.load_profile("replastic")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Skip a test when what it tests says that it needs a newer torch than the one that is installed."""
    try:
        return (yield)
    except UserError as error:
        needed = re.search(r"needs torch (\d+)\.(\d+) or newer", str(error))
        installed = tuple(int(n) for n in torch.__version__.split(".")[:2])
        if needed is None or installed >= (int(needed[1]), int(needed[2])):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data and trained checkpoints beside the checkout."""
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA}; set REPLASTIC_TEST_DATA to the folder that holds it")
    return DATA


@pytest.fixture(scope="session", autouse=True)
def _decoded_data_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep decoded images in a folder of the test session, not in the user's home."""
    os.environ["REPLASTIC_CACHE"] = str(tmp_path_factory.mktemp("decoded"))


@pytest.fixture(autouse=True)
def only_what_is_built_in() -> Iterator[None]:
    """Forget, after each test, the methods, metrics and plug-in files it registered."""
    yield
    for registry in (METHODS, METRICS):
        for name, entry in list(registry._entries.items()):
            if not entry.module.startswith("replastic."):
                del registry._entries[name]
    for module in [m for m in sys.modules if m.startswith("replastic_plugin_")]:
        del sys.modules[module]
