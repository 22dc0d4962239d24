"""A cache and an environment of its own for each test."""

from __future__ import annotations

from pathlib import Path

import pytest

from replastic.data import loading


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; nothing remembered, no data by default."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("REPLASTIC_CACHE", str(folder))
    monkeypatch.delenv("REPLASTIC_DATA", raising=False)
    monkeypatch.setattr(loading, "_REMEMBERED", {})
    return folder
