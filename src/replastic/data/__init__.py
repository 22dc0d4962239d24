"""Data sets, decoded once and held as tensors; one file each, whose name is the data set's public name."""

from replastic.data._dataset import Dataset, Splits, hold_out
from replastic.data._registry import entry, get, load, names, register
from replastic.data._seeds import derive, generator

__all__ = [
    "Dataset",
    "Splits",
    "derive",
    "entry",
    "generator",
    "get",
    "hold_out",
    "load",
    "names",
    "register",
]
