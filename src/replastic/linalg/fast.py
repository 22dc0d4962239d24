"""A rough polar factor by four minimax steps in bfloat16, for when rough is enough."""

from __future__ import annotations

import torch

from replastic.errors import UserError
from replastic.linalg.direction import Leading
from replastic.linalg.matmul import bfloat16_is_fast
from replastic.linalg.polynomial import spectral_bound, x_form
from replastic.linalg.schedule import POLISH, schedule
from replastic.linalg.tall import Solved, Tall, gram_residual

_LOWER = 0.03
_STEPS = 4
_SAFETY = 1.02


def fast(tall: Tall, *, polish: int = 0) -> Solved:
    """Four quintic steps that serve singular values down to 3% of the largest, in bfloat16 where that is fast.

    Args:
        tall: The matrices, and where the factors go.
        polish: Further quintic steps, in float32.

    Raises:
        UserError: `polish` is negative.
    """
    if polish < 0:
        raise UserError(f"polish must not be negative, got {polish}")
    dtype = torch.bfloat16 if bfloat16_is_fast(tall.w.device.type) else torch.float32
    x = tall.rows(dtype)
    gram = x.mT @ x
    leading = Leading(tall, gram)
    norm = spectral_bound(gram)
    x, gram, _ = x_form(x.div_(norm), gram.div_(norm.square()), schedule(_LOWER, _STEPS, cushion=0.0, safety=_SAFETY))
    if polish:
        x = x.to(tall.out.dtype)
        x, gram, _ = x_form(x, x.mT @ x, (POLISH,) * polish)
    tall.out.copy_(x)
    return Solved(gram_residual(gram), leading.alignment(tall.out), _STEPS + polish)
