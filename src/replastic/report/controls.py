"""Tells controls from methods: experiments that explain an effect, not ways to get one."""

from __future__ import annotations

import sys

from replastic import methods
from replastic.errors import UnknownNameError
from replastic.options import name_of
from replastic.report import networks


def is_control(spec: str) -> bool:
    """Whether every part of a spec is a control: it does nothing, or its file says "(control)". Unknown ones are not.

    The file of a method imports when it is asked for.
    """
    try:
        kinds = [methods.get(name) for name in name_of(networks.split(spec)[0].partition("@")[0]).split("+")]
    except UnknownNameError:
        return False
    return all(kind.inert or "(control)" in (sys.modules[kind.__module__].__doc__ or "") for kind in kinds)
