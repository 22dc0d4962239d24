"""Data sets, decoded once and held as tensors; one file each, whose name is the data set's public name."""

from replastic.data._dataset import Dataset, Pixels, Splits, hold_out
from replastic.data._registry import entry, get, load, names, register

__all__ = [
    "Dataset",
    "Pixels",
    "Splits",
    "entry",
    "get",
    "hold_out",
    "load",
    "names",
    "register",
]
