"""The list of measures: the files of this folder, entry points and plug-ins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from replastic.registry import Registry

On = Literal["weight", "change", "features", "loss"]


@dataclass(frozen=True)
class Metric:
    """A registered measure.

    `on` says what it is a function of, and so how it is called:
    ``weight``: compute(w, info) with matrices (batch, d_out, d_in) -> (batch,);
    ``change``: compute(new, old, info) likewise;
    ``features``: compute(features) with the outputs of one layer (samples, units) -> scalar, or one value per unit;
    ``loss``: compute(model, batches, loss_fn, generator=...) -> scalar.
    """

    compute: Callable[..., Any]
    on: On
    label: str
    """Axis label, with the unit."""
    better: Literal["lower", "higher", "neither"] = "neither"
    total: Literal["sum", "mean", "max"] = "mean"
    """How the values of several matrices or layers become one number for the network."""
    share: Callable[..., Any] | None = None
    """For a mean over matrices: how much each counts in it, called as `compute` is and 0 for none; None counts all
    alike."""


REGISTRY: Registry[Metric] = Registry("metric", "replastic.metrics")
names = REGISTRY.names
get = REGISTRY.get
entry = REGISTRY.entry


def register(name: str, *, on: On, label: str, reference: str = "", **facts: Any) -> Callable[..., Any]:
    """Decorate a function to make it known as the measure `name`; the function itself is returned unchanged."""

    def decorate(compute: Callable[..., Any]) -> Callable[..., Any]:
        REGISTRY.add(name, Metric(compute, on, label, **facts), described=compute, reference=reference)
        return compute

    return decorate
