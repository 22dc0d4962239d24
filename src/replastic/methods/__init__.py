"""Interventions that protect or restore plasticity, one file each; the file's name is the method's public name."""

from replastic.methods._interface import Method, Run, Solution, WeightMethod, option
from replastic.methods._registry import entry, get, names, register

__all__ = ["Method", "Run", "Solution", "WeightMethod", "entry", "get", "names", "option", "register"]
