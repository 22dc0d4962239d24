"""Corpora, one file each; the file's name is the corpus's public name. What reads them is in `data/`."""

from replastic.data.corpus import entry, get, names, register

__all__ = ["entry", "get", "names", "register"]
