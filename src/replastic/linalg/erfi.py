"""The imaginary error function, which torch lacks."""

from __future__ import annotations

import math


def erfi(x: float) -> float:
    """-i erf(i x), which is 2 / sqrt(pi) times the integral of exp(t^2) from 0 to x.

    Infinite from |x| = 26.6 on, where float64 ends. By its Taylor series, whose terms all have the sign of x, so that
    nothing cancels.
    """
    square = x * x
    if square > 709.0:
        return math.copysign(math.inf, x)
    power = total = x
    k = 0
    while True:
        k += 1
        power *= square / k
        term = power / (2 * k + 1)
        total += term
        if abs(term) <= 1e-17 * abs(total):
            return 2.0 / math.sqrt(math.pi) * total
