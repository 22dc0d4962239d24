"""Triggers decide when a method acts, one file each; the file's name is the trigger's public name."""

from replastic.options import option
from replastic.triggers._against_start import AgainstStart
from replastic.triggers._trigger import Seen, Trigger, entry, from_spec, get, names, register, spec_of

__all__ = ["AgainstStart", "Seen", "Trigger", "entry", "from_spec", "get", "names", "option", "register", "spec_of"]
