"""The list of data sets: the files of this folder, entry points and plug-ins."""

from __future__ import annotations

from collections.abc import Callable

import torch

from replastic.data._dataset import Splits
from replastic.registry import Registry

REGISTRY: Registry[Callable[[], Splits]] = Registry("dataset", "replastic.data")
register = REGISTRY.register
names = REGISTRY.names
get = REGISTRY.get
entry = REGISTRY.entry


def load(name: str, device: str | torch.device = "cpu") -> Splits:
    """The splits of the data set `name`, with their tensors on `device`."""
    return get(name)().to(device)
