"""The list of measures: the files of this folder, entry points and plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from replastic.errors import UserError
from replastic.options import Settings, name_of, read
from replastic.registry import Registry

On = Literal["weight", "change", "features", "loss"]


@dataclass(frozen=True)
class Metric:
    """A registered measure.

    `on` names the argument of the measure, and so the way it is called:
    ``weight``: compute(w, info) with matrices (batch, d_out, d_in) -> (batch,);
    ``change``: compute(new, old, info) with the same shapes;
    ``features``: compute(features) with the outputs of one layer (samples, units) -> scalar, or one value per unit;
    ``loss``: compute(model, batches, loss_fn, generator=...) -> scalar, or one scalar per layer, by its name.

    A `vector` measure returns k numbers where another returns one: (batch, k) from ``weight`` and ``change``, (k,)
    from ``features`` and ``loss``.

    Raises:
        UserError: A vector measure has a `share`.
    """

    compute: Callable[..., Any]
    on: On
    label: str
    """Axis label, with the unit."""
    better: Literal["lower", "higher", "neither"] = "neither"
    plastic: Literal["lower", "higher"] | None = None
    """The side on which networks are said to be more plastic, where `better` says neither: the contest of diagnostics
    holds it against the runs."""
    outcome: bool = False
    """Whether it measures plasticity itself, so that the contest judges other measures by it."""
    total: Literal["sum", "mean", "max", "norm"] = "mean"
    """How the values of several matrices or layers become one number for the network; ``norm`` is the root of the sum
    of squares. The vectors of the matrices of one layer become one vector in the same way, entry by entry."""
    prepare: Callable[..., Any] | None = None
    """For measures of the loss that share their costly part: ``prepare(model, batches, loss_fn, generator=...)``. It is
    called once for all measures that have it, and each is called as ``compute(prepared)``."""
    share: Callable[..., Any] | None = None
    """Weight of each matrix in a mean over matrices. It is called as `compute` is, and 0 leaves the matrix out. None
    gives all matrices the same weight."""
    bounds: tuple[float | None, float | None] = (None, None)
    """Least and largest value that it can have; None where there is no such end. Intervals stay within them."""
    logarithmic: bool = False
    """Whether plots show it on a logarithmic axis, as it grows by factors."""
    vector: bool = False
    """Whether the measure of a layer is a list of numbers, such as a spectrum. Layers differ in its length, so there is
    no value for the network."""
    gradients: float = 1.0
    """Of a measure of the loss: gradients on the batch that take about as long, to tell its cost beforehand. Options
    may have a property of this name, and one named `vectors`, which count instead."""
    vectors: float = 1.0
    """Of a measure of the loss: copies of all parameters that it holds at a time, roughly."""
    options: type[Settings] | None = None
    """Settings that a spec such as ``plasticity:steps=50`` may give. `compute` then takes them as ``options=``."""

    def __post_init__(self) -> None:
        if self.vector and self.share is not None:
            raise UserError(f"the measure {self.label!r} is a vector, so it cannot have a share: leave share out")


REGISTRY: Registry[Metric] = Registry("metric", "replastic.metrics")
names = REGISTRY.names
get = REGISTRY.get
entry = REGISTRY.entry


def from_spec(spec: str) -> Metric:
    """The measure that a text describes: ``name``, or ``name:option=value,option=value`` for one that has options.

    Raises:
        UserError: The name or an option is not known, or a value is not allowed.
    """
    metric = get(name_of(spec))
    if ":" not in spec and metric.options is None:
        return metric
    kind, given = read(spec, lambda name: metric.options or Settings)
    options = kind(**given)
    cost = {name: getattr(options, name, getattr(metric, name)) for name in ("gradients", "vectors")}
    return replace(metric, compute=partial(metric.compute, options=options), **cost)


def by_name(specs: Iterable[str]) -> dict[str, Metric]:
    """The measures of a list of specs, by their names without options.

    Raises:
        UserError: As `from_spec`; or two specs name one measure, whose values would lie under one key.
    """
    found: dict[str, Metric] = {}
    for spec in dict.fromkeys(specs):
        if name_of(spec) in found:
            raise UserError(f"the measure {name_of(spec)} is asked for twice, with different options: leave one out")
        found[name_of(spec)] = from_spec(spec)
    return found


def register(name: str, *, on: On, label: str, reference: str = "", **facts: Any) -> Callable[..., Any]:
    """Decorate a function to make it known as the measure `name`. The function itself stays as it is."""

    def decorate(compute: Callable[..., Any]) -> Callable[..., Any]:
        REGISTRY.add(name, Metric(compute, on, label, **facts), described=compute, reference=reference)
        return compute

    return decorate
