"""Ordered phases over data, one file each; the file's name is the stream's public name."""

from replastic.streams._growing import Growing
from replastic.streams._registry import entry, get, names, register
from replastic.streams._stream import Phase, Stream

__all__ = ["Growing", "Phase", "Stream", "entry", "get", "names", "register"]
