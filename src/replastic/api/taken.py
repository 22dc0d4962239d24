"""Registered measures of a live network, taken one after the other: what one of them cannot do hides no other."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from replastic import metrics
from replastic.api._shared import LossFunction
from replastic.errors import UserError
from replastic.metrics import Metric
from replastic.options import name_of
from replastic.probes import gradients
from replastic.records import key
from replastic.text import columns
from replastic.weights.entries import WeightStore
from replastic.weights.recipe import Recipe

OVERHEAD = 2e-3
"""Seconds that a step of a measure takes however small the network is."""
ALL = "all"
"""Asks for every measure but those of a change."""


@dataclass(frozen=True)
class Taken:
    """One measure of the network: its value, those of its layers, or the reason why there is none."""

    name: str
    label: str
    better: str
    """``lower``, ``higher`` or ``neither``."""
    value: float | list[float] | None
    """Of the network; None for a vector measure of layers, and where there is a problem."""
    layers: Mapping[str, float | list[float]]
    problem: str = ""
    """Why it could not be taken, in a sentence."""

    def to_dict(self) -> dict[str, Any]:
        """Everything."""
        return asdict(self)


def chosen(measures: str | Sequence[str], batch: Any, loss_fn: LossFunction | None) -> dict[str, str]:
    """Specs of the measures that were asked for, by name.

    Args:
        measures: ``"all"`` for every measure that can be taken, a name or spec, or several.
        batch: What there is to take them of; None if there is none.
        loss_fn: Mean loss; None if there is none.

    Raises:
        UserError: One is unknown or asked for twice, compares two states of the weights, or lacks what it needs.
    """
    everything = measures == ALL
    asked = metrics.names() if everything else [measures] if isinstance(measures, str) else measures
    if not isinstance(asked, Sequence) or not all(isinstance(spec, str) for spec in asked):
        raise UserError(f"measures must be 'all' or names of measures (`replastic list metrics`), got {measures!r}")
    lacking = {"features": "batch" if batch is None else "", "loss": "batch" if batch is None else "loss_fn"}
    if loss_fn is not None:
        lacking["loss"] = lacking["features"]
    specs = {name_of(spec): spec for spec in asked}
    for name, metric in metrics.by_name(asked).items():
        without = lacking.get(metric.on, "")
        if everything and (without or metric.on == "change"):
            del specs[name]
        elif metric.on == "change":
            raise UserError(f"the measure {name} compares two states of the weights: the outcome of a rewrite tells")
        elif without:
            raise UserError(f"the measure {name} needs {without}: pass {without}=")
    return specs


def take(
    specs: Mapping[str, str],
    *,
    store: WeightStore,
    recipe: Recipe,
    model: nn.Module,
    batch: Any,
    loss_fn: LossFunction | None,
    seed: int = 0,
    tell: bool = True,
) -> tuple[Taken, ...]:
    """Take measures in their order.

    Args:
        specs: As `chosen` gives them.
        store: The weights.
        recipe: Chooses the weights that measures of weights are taken of.
        model: The live module; left without a trace.
        batch: The argument of `loss_fn`, or inputs.
        loss_fn: Mean loss of the model on a batch.
        seed: Seed of what measures draw.
        tell: Whether the cost is printed to standard error before.
    """
    found = metrics.by_name(specs.values())
    given: dict[str, Any] = {"store": store, "recipe": recipe, "model": model, "batch": batch, "loss_fn": loss_fn}
    if tell:
        announce(found, model, batch, loss_fn)
    taken: dict[str, Taken] = {}
    for names in _groups(found):
        try:
            values = metrics.measure([specs[name] for name in names], generator=_draw(seed), **given)
            taken |= {name: _taken(name, found[name], values) for name in names}
        except Exception:  # each for itself, so that one says why and the others are there
            taken |= {name: _alone(name, specs[name], found[name], given, seed) for name in names}
    return tuple(taken[name] for name in found)


def announce(found: Mapping[str, Metric], model: nn.Module, batch: Any, loss_fn: LossFunction | None) -> None:
    """Print the cost of the measures of the loss, from a gradient that is computed and timed."""
    parts: dict[object, Metric] = {m.prepare or name: m for name, m in found.items() if m.on == "loss"}
    trainable = [p for p in model.parameters() if p.requires_grad]
    if not parts or loss_fn is None or batch is None or not trainable:
        return
    try:
        for _ in range(2):  # the first one warms up
            begun = time.perf_counter()
            list(gradients(model, [batch], loss_fn, training=False))
            if trainable[0].is_cuda:
                torch.cuda.synchronize()
            once = time.perf_counter() - begun
    except Exception:
        return  # each measure will say what is wrong
    seconds = (once + OVERHEAD) * sum(m.gradients for m in parts.values())
    room = max(m.vectors for m in parts.values()) * sum(p.numel() * p.element_size() for p in trainable) / 2**20
    print(
        f"measures: at most about {max(seconds, 0.1):.2g} s ({1000 * once:.2g} ms a gradient of the batch), and "
        f"{max(room, 1):.2g} MiB beside the model",
        file=sys.stderr,
        flush=True,
    )


def table(taken: Sequence[Taken]) -> list[str]:
    """Lines: value of the network, range over the layers, and the side that is better."""
    rows = [["measure", "network", "layers", "better"], *(_row(t) for t in taken if not t.problem)]
    lines = [f"  {line}" for line in columns(rows)] if len(rows) > 1 else []
    problems: dict[str, list[str]] = {}
    for t in taken:
        if t.problem:
            problems.setdefault(t.problem, []).append(t.name)
    return [*lines, *(f"  not measured: {', '.join(names)}: {problem}" for problem, names in problems.items())]


def _groups(found: Mapping[str, Metric]) -> list[list[str]]:
    """Names that share their costly part, or a pass over the weights or the units, are taken together."""
    groups: dict[object, list[str]] = {}
    for name, metric in found.items():
        shared = metric.prepare or (metric.on if metric.on != "loss" else name)
        groups.setdefault(shared, []).append(name)
    return list(groups.values())


def _alone(name: str, spec: str, metric: Metric, given: Mapping[str, Any], seed: int) -> Taken:
    try:
        return _taken(name, metric, metrics.measure([spec], generator=_draw(seed), **given))
    except UserError as error:
        problem = str(error)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}".splitlines()[0]
    return Taken(name, metric.label, metric.better, None, {}, problem)


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _taken(name: str, metric: Metric, values: Mapping[str, Any]) -> Taken:
    own, prefix = key(name), f"{key(name)}/"
    layers = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
    return Taken(name, metric.label, metric.better, values.get(own), layers)


def _row(taken: Taken) -> list[str]:
    numbers = {layer: value for layer, value in taken.layers.items() if isinstance(value, float)}
    between = ""
    if len(numbers) > 1:
        low, high = (at(numbers, key=numbers.__getitem__) for at in (min, max))
        between = f"{numbers[low]:.3g} ({low}) to {numbers[high]:.3g} ({high})"
    elif taken.value is None:
        between = f"{len(taken.layers)} lists, in to_dict()"
    value = taken.value if isinstance(taken.value, float) else None
    return [taken.name, "" if value is None else f"{value:.4g}", between, taken.better.replace("neither", "")]
