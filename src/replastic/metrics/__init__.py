"""Measures of plasticity, one thin file each. The formulas are in linalg and probes."""

from replastic.metrics._evaluate import measure, snapshot, watch_features
from replastic.metrics._metric import Metric, by_name, entry, from_spec, get, names, register

__all__ = [
    "Metric",
    "by_name",
    "entry",
    "from_spec",
    "get",
    "measure",
    "names",
    "register",
    "snapshot",
    "watch_features",
]
