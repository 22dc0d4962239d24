"""Recipes: TOML files that say which method touches which weights, and which matrices a weight holds."""

from replastic.recipes._load import DEFAULT, load, names

__all__ = ["DEFAULT", "load", "names"]
