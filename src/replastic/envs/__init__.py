"""Environments behind one vectorised interface, one family a file, and the replay of what happened in them."""

from replastic.envs._environment import ActionSpace, Environment, Episode, ObservationSpace, Step
from replastic.envs._family import Family, entry, from_spec, get, names, register
from replastic.envs._recording import check_recording, record
from replastic.envs._replay import Replay, ReplaySize, Transitions
from replastic.envs._shifted import Shifted

__all__ = [
    "ActionSpace",
    "Environment",
    "Episode",
    "Family",
    "ObservationSpace",
    "Replay",
    "ReplaySize",
    "Shifted",
    "Step",
    "Transitions",
    "check_recording",
    "entry",
    "from_spec",
    "get",
    "names",
    "record",
    "register",
]
