"""Interventions that protect or restore plasticity, one file each; the file's name is the method's public name."""

from replastic.interventions.method import Method, Scope, Solution, WeightMethod, entry, get, names, register
from replastic.interventions.needs import check_needs
from replastic.interventions.run import Checkpoint, Need, Run
from replastic.interventions.spec import from_spec, settings, spec_of
from replastic.options import option

__all__ = [
    "Checkpoint",
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
]
