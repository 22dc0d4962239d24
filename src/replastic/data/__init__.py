"""Finds data sets, decodes them once and holds them as tensors. The sets themselves are the files of `datasets/`."""

from replastic.data.dataset import Dataset, Pixels, Splits, hold_out
from replastic.data.loading import from_spec, identity, load
from replastic.data.provider import Provider, entry, get, names, register

__all__ = [
    "Dataset",
    "Pixels",
    "Provider",
    "Splits",
    "entry",
    "from_spec",
    "get",
    "hold_out",
    "identity",
    "load",
    "names",
    "register",
]
