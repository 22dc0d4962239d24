"""Recipes: TOML files that say which method touches which weights, and how a weight is to be seen."""

from replastic.recipes._load import load, names

__all__ = ["load", "names"]
