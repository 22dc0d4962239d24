"""Ordered phases over data, one file each; the file's name is the stream's public name."""

from replastic.streams._growing import Growing
from replastic.streams._stream import Phase, Stream, entry, get, names, register

__all__ = ["Growing", "Phase", "Stream", "entry", "get", "names", "register"]
