"""One batch of matrices of one weight on its way from old to new, and what is reported of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from replastic import linalg
from replastic.interventions.method import Solution
from replastic.linalg.device import at_once
from replastic.linalg.products import symmetric_product
from replastic.linalg.tall import gram_residual
from replastic.weights.change import LayerOutcome
from replastic.weights.entries import MatrixInfo

MEASURED = 1 << 16
"""Elements measured at a time on a CPU: their float64 copies fit into its caches."""


@dataclass(eq=False)
class Part:
    """Old and new values of one batch of matrices; `measure` fills the sums."""

    info: MatrixInfo
    old: Tensor
    """(batch, d_out, d_in), as stored; may alias the store."""
    initial: Tensor | None = None
    new: Tensor | None = None
    """In the working dtype; None while untouched."""
    facts: list[Mapping[str, Any]] = field(default_factory=list)
    """The method's report of it, one entry per call."""
    sfe: float = 0.0
    normalised_sfe: float = 0.0
    norms: tuple[float, float] = (0.0, 0.0)
    """||old||_F and ||new||_F."""


def working_dtype(stored: Tensor) -> torch.dtype:
    """float64 for float64 weights, float32 for all others."""
    return torch.float64 if stored.dtype == torch.float64 else torch.float32


def measure(parts: Sequence[Part]) -> None:
    """Compare old and new of parts on one device, as they will be stored: rounded to the dtype of the old.

    One transfer from the device for all of them.
    """
    sums = torch.stack([_sums(part) for part in parts]).tolist()
    for part, (distance, before, after, *powers) in zip(parts, sums, strict=True):
        for_distance, for_before, for_after = powers
        ratio = for_before / for_distance
        part.sfe = distance / for_distance / for_distance
        if before > 0:
            part.normalised_sfe = distance / before * ratio * ratio
        else:
            part.normalised_sfe = math.inf if distance > 0 else 0.0
        part.norms = before**0.5 / for_before, after**0.5 / for_after


def _sums(part: Part) -> Tensor:
    """||new - old||_F^2, ||old||_F^2 and ||new||_F^2 of a part, each times a power of two, squared; and the powers."""
    assert part.new is not None
    rows = max(1, at_once(part.old.device, MEASURED) // max(1, part.info.batch * part.info.d_in))
    powers = _powers(part)
    sums = torch.zeros(3, dtype=torch.float64, device=part.old.device)
    for start in range(0, part.old.shape[-2], rows):
        new = _numbers(part.new[..., start : start + rows, :].to(part.old.dtype))
        old = _numbers(part.old[..., start : start + rows, :])
        if part.old.dtype == torch.float64:
            for_distance, for_old, for_new = powers
            difference, old, new = new * for_distance - old * for_distance, old * for_old, new * for_new
        else:
            difference = new - old
        sums += torch.stack([torch.dot(x, x) for x in (difference, old, new)])
    return torch.cat([sums, powers])


def _numbers(x: Tensor) -> Tensor:
    """All entries in a row, in float64."""
    return x.to(torch.float64, memory_format=torch.contiguous_format).flatten()


def _powers(part: Part) -> Tensor:
    """Powers of two for the difference, the old and the new; 1 for what cannot overflow in float64."""
    assert part.new is not None
    if part.old.dtype != torch.float64 or not part.old.numel():
        return torch.ones(3, dtype=torch.float64, device=part.old.device)
    old, new = (linalg.towards_one(x.abs().amax()) for x in (part.old, part.new))
    return torch.stack([torch.minimum(old, new), old, new])


def as_written(answer: Solution, stored: torch.dtype) -> dict[str, Tensor]:
    """The residual of the new matrices as they will be stored, where their dtype rounds more than the solver did.

    It is that of the weight divided by its `scale`, from a Gram matrix in the dtype of the solver, whose own rounding
    is far below that of the stored one. A method that tells no residual, or no scale, has none.
    """
    found, scale = answer.facts.get("residual"), answer.facts.get("scale")
    if not isinstance(found, Tensor) or not isinstance(scale, Tensor) or stored == answer.weight.dtype:
        return {}
    scaled = scale > 0  # a matrix that was passed over has no scale, and its residual stays 1
    q = answer.weight.to(stored).to(answer.weight.dtype).div_(torch.where(scaled, scale, 1)[:, None, None])
    q = q if q.shape[-2] >= q.shape[-1] else q.mT
    gram = symmetric_product(q, q, out=q.new_empty(len(q), q.shape[-1], q.shape[-1]))
    return {"residual": torch.where(scaled, gram_residual(gram), found)}


def outcome(part: Part, method: str, known_by: str = "") -> LayerOutcome:
    """The report of a part that `measure` has seen."""
    info, (before, after) = part.info, part.norms
    return LayerOutcome(
        weight=info.weight,
        block=info.block,
        kind=info.kind,
        batch=info.batch,
        d_out=info.d_out,
        d_in=info.d_in,
        method=method,
        sfe=part.sfe,
        normalised_sfe=part.normalised_sfe,
        norm_before=before,
        norm_after=after,
        facts={key: _reduced(key, [f[key] for f in part.facts]) for key in part.facts[0]} if part.facts else {},
        known_by=known_by,
    )


def _reduced(key: str, values: Sequence[Any]) -> Any:
    """One value per fact: the worst residual, the lowest alignment, the mean of other tensors, the largest number."""
    if isinstance(values[0], Tensor):
        whole = torch.cat([v.reshape(-1) for v in values])
        worst = {"residual": whole.max, "alignment": whole.min}
        return float(worst.get(key, whole.mean)())
    return max(values) if isinstance(values[0], int | float) else values[0]
