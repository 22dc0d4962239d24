"""Scales: the number by which an orthonormal factor is multiplied to become a weight."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from replastic.errors import UnknownNameError, UserError
from replastic.linalg.magnitude import frobenius, near_one
from replastic.linalg.tall import inner


def scale_factor(rule: str, w: Tensor, factor: Tensor, *, taps: int = 1, w0: Tensor | None = None) -> Tensor:
    """The scale of each factor.

    Args:
        rule: ``modular``: sqrt(d_out / d_in) / taps, the FIRE paper's scale; its authors' code divides by kh * kw for
            convolutions. ``modular_norm``: the factor gets the Frobenius norm that an isometry has at the modular
            scale, s = modular * sqrt(r) / ||X||_F with r = min(d_out, d_in); for an orthonormal factor this equals
            ``modular``. ``preserve``: the matrix keeps its own Frobenius norm. ``init``: the matrix gets the norm it
            had at initialisation. ``procrustes``: the scaled isometry of least squared distance to `w`,
            s = <W, Q> / ||Q||_F^2, which is <W, Q> / r for an orthonormal Q. ``unit``: 1.
        w: Old weight (*B, d_out, d_in).
        factor: Q, same shape.
        taps: Spatial positions of a convolution kernel (kh * kw).
        w0: The weight at initialisation, same shape; needed by ``init``.

    Returns:
        (*B,) float64; 0 for a zero factor, which cannot be scaled to a norm.

    Raises:
        UserError: The rule is unknown, or is ``init`` without `w0`.
    """
    if rule not in SCALES:
        raise UnknownNameError("scale", rule, SCALES)
    return SCALES[rule](w, factor, taps, w0)


def _modular(w: Tensor, factor: Tensor, taps: int, w0: Tensor | None) -> Tensor:
    """The paper's scale: sqrt(d_out / d_in), divided by the kernel area of a convolution."""
    d_out, d_in = w.shape[-2:]
    return _constant(w, math.sqrt(d_out / d_in) / taps)


def _modular_norm(w: Tensor, factor: Tensor, taps: int, w0: Tensor | None) -> Tensor:
    """The factor gets the norm of an isometry at the modular scale, so that rough factors have the same norm."""
    return _ratio(_modular(w, factor, taps, w0) * math.sqrt(min(w.shape[-2:])), frobenius(factor))


def _preserve(w: Tensor, factor: Tensor, taps: int, w0: Tensor | None) -> Tensor:
    """Each matrix keeps its own Frobenius norm."""
    return _ratio(frobenius(w), frobenius(factor))


def _init(w: Tensor, factor: Tensor, taps: int, w0: Tensor | None) -> Tensor:
    """Each matrix gets the Frobenius norm it had at initialisation."""
    if w0 is None:
        raise UserError("scale 'init' needs the weights at initialisation: give init=, or choose another scale")
    return _ratio(frobenius(w0), frobenius(factor))


def _procrustes(w: Tensor, factor: Tensor, taps: int, w0: Tensor | None) -> Tensor:
    """The scaled isometry nearest to the weight: <W, Q> / ||Q||_F^2."""
    scaled, power = near_one(w)
    return _ratio(inner(scaled, factor.double()), frobenius(factor).square()) / power


def _unit(w: Tensor, factor: Tensor, taps: int, w0: Tensor | None) -> Tensor:
    """1: the isometry itself."""
    return _constant(w, 1.0)


SCALES: dict[str, Callable[[Tensor, Tensor, int, Tensor | None], Tensor]] = {
    "modular": _modular,
    "modular_norm": _modular_norm,
    "preserve": _preserve,
    "init": _init,
    "procrustes": _procrustes,
    "unit": _unit,
}

SHAPE_SCALES = ("modular", "unit")
"""Scales that the shape alone decides."""


def _constant(w: Tensor, value: float) -> Tensor:
    return torch.full(w.shape[:-2], value, dtype=torch.float64, device=w.device)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.where(denominator > 0, numerator / denominator, 0)
