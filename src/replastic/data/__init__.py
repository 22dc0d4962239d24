"""Data sets, decoded once and held as tensors; one file each, whose name is the data set's public name."""

from replastic.data._dataset import Dataset, Pixels, Splits, hold_out
from replastic.data._provider import Provider
from replastic.data._registry import entry, from_spec, get, identity, load, names, register

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
