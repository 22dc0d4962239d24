"""Signs of lost plasticity on one batch: units that do not respond, and weights that no gradient reaches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from replastic import linalg
from replastic.api._shared import LossFunction
from replastic.metrics import watch_features
from replastic.metrics.active_units import active_units
from replastic.metrics.dead import dead
from replastic.metrics.dormant import dormant
from replastic.metrics.feature_srank import feature_srank
from replastic.probes import gradients
from replastic.weights.recipe import Target

SILENT = 1e-4
"""A unit counts as one that no gradient reaches if the gradient of its incoming weights is below this share of the mean
over the layer (ours)."""


@dataclass(frozen=True)
class UnitHealth:
    """The units of one layer on the batch."""

    layer: str
    dormant: float
    """Share of units whose score E|h_i| / mean_k E|h_k| is at most 0.025 (Sokar et al. 2023)."""
    srank: int
    """Effective rank of the features: directions that carry 99% of their singular values (Kumar et al. 2021)."""
    stuck: float = 0.0
    """Share of units that are active but do not respond: constant, or saturated at a bound (see `linalg.stuck`)."""
    units: int = 0
    samples: int = 0
    """Samples on which they were seen; positions of maps and sequences count."""
    dead: float = 0.0
    """Share of units that give 0 for every sample; these are dormant, too."""
    active: float = 0.0
    """Share of units above 0, as a mean over samples."""

    @property
    def idle(self) -> float:
        """Share of units that are dormant or stuck."""
        return self.dormant + self.stuck

    @property
    def directions(self) -> int:
        """Largest value `srank` can have here."""
        return min(self.units, self.samples)


@dataclass(frozen=True)
class GradientHealth:
    """How much of a weight the gradient of the loss on the batch reaches."""

    weight: str
    norm: float
    silent: float
    """Share of output units whose incoming weights get no gradient; see `SILENT`."""


def unit_health(model: nn.Module, batch: Any, loss_fn: LossFunction | None) -> tuple[UnitHealth, ...]:
    """Look at the outputs of every activation function in one pass in evaluation mode; leaves no trace.

    Raises:
        UserError: Features are not finite, or the batch is empty.
    """
    found = []

    def visit(layer: str, features: Tensor) -> None:
        quiet = dormant(features).bool()
        found.append(
            UnitHealth(
                layer,
                float(quiet.double().mean()),
                round(float(feature_srank(features))),
                float((linalg.stuck(features) & ~quiet).double().mean()),
                units=features.shape[1],
                samples=features.shape[0],
                dead=float(dead(features).mean()),
                active=float(active_units(features).mean()),
            )
        )

    watch_features(model, batch, loss_fn, visit)
    return tuple(found)


def gradient_health(
    model: nn.Module, batch: Any, loss_fn: LossFunction, targets: Sequence[Target]
) -> tuple[GradientHealth, ...]:
    """The gradient of the loss with respect to each target, in evaluation mode; `.grad` stays as it is."""
    (found,) = gradients(model, [batch], loss_fn, training=False)
    health = []
    for target in targets:
        gradient = next((found[n] for n in (target.entry.name, *target.entry.aliases) if n in found), None)
        if gradient is None:
            continue
        for info, matrices in target.matrices(gradient):
            rows = matrices.double().square().sum((0, 2)).sqrt()
            silent = float((rows <= SILENT * rows.mean()).double().mean())
            health.append(GradientHealth(info.label, float(linalg.frobenius(rows[None])), silent))
    return tuple(health)
