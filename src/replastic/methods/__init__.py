"""Interventions that protect or restore plasticity, one file each; the file's name is the method's public name."""

from replastic.methods._interface import Method, Need, Run, Scope, Solution, WeightMethod, option
from replastic.methods._needs import check_needs, used
from replastic.methods._registry import entry, get, names, register
from replastic.methods._spec import from_spec, settings, spec_of

__all__ = [
    "Method",
    "Need",
    "Run",
    "Scope",
    "Solution",
    "WeightMethod",
    "check_needs",
    "entry",
    "from_spec",
    "get",
    "names",
    "option",
    "register",
    "settings",
    "spec_of",
    "used",
]
