"""Recipes: TOML files that say which method touches which weights, and how a weight is to be seen."""

from replastic.recipes._load import DEFAULT, load, names

__all__ = ["DEFAULT", "load", "names"]
