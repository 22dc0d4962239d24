"""Schedules of polynomials: minimax quintics whose composition brings all singular values in [lower, 1] close to 1."""

from __future__ import annotations

import functools
import math

import numpy as np

Step = tuple[float, float, float]
"""(a, b, c) of x -> a x + b x^3 + c x^5; on matrices X -> X (a I + b A + c A^2) with A = X^T X."""

CUBIC: Step = (1.5, -0.5, 0.0)
"""Algorithm 1 of the FIRE paper."""
QUINTIC: Step = (2.0, -1.5, 0.5)
"""Appendix A.2 of the FIRE paper."""
POLISH: Step = (15 / 8, -5 / 4, 3 / 8)
"""The quintic that agrees with 1 at 1 to third order. It makes a nearly orthonormal matrix orthonormal in one or two
steps."""


@functools.lru_cache
def schedule(lower: float, num_steps: int, *, cushion: float = 0.1, safety: float = 1.0) -> tuple[Step, ...]:
    """Quintic steps whose composition is close to 1 on [lower, 1]. Each is the best for the interval left by the last.

    Step k is the odd quintic with the least error on [l_k, u_k], the interval of the singular values at that point.
    For a small l_k, this optimum first sends mid-size values almost to zero and then grows them back, which multiplies
    rounding errors a hundredfold. So it is fitted on [max(l_k, cushion u_k), u_k] instead. That costs about half a step
    over the whole schedule.

    Args:
        lower: Smallest singular value that must come close to 1, as a share of the largest.
        num_steps: Length of the schedule.
        cushion: Least lower end of the interval to fit, as a share of its upper end; 0 gives the plain optimum.
        safety: Divides the argument of all steps but the last. Above the interval the polynomials grow without bound,
            and rounding must not push a value there: 1.01 for float32, 1.02 for bfloat16.

    Reference: Amsel et al., The Polar Express (arXiv 2505.16932), for greedy composition; the cushion follows its
        section on finite precision.
    """
    steps: list[Step] = []
    low, high = lower, 1.0
    for k in range(num_steps):
        a, b, c = minimax_quintic(max(low, cushion * high), high)
        turning = _turning_points(a, b, c)
        ends = [p(x, (a, b, c)) for x in (low, high, *(t for t in turning if low < t < high))]
        low, high = min(ends), max(ends)
        s = safety if k < num_steps - 1 else 1.0
        steps.append((a / s, b / s**3, c / s**5))
    return tuple(steps)


def p(x: float, step: Step) -> float:
    """The polynomial of a step at `x`."""
    a, b, c = step
    return x * (a + x * x * (b + c * x * x))


def minimax_quintic(low: float, high: float) -> Step:
    """The odd quintic with the least maximal distance to 1 on [low, high], 0 < low < high, by Remez exchange.

    The error has its largest size at four points, with alternating sign: both ends and the two turning points between.
    """
    if high - low < 1e-7 * high:  # the optimum's limit; the exchange below would divide rounding by rounding
        a, b, c = POLISH
        x = (low + high) / 2
        return a / x, b / x**3, c / x**5
    q, r = low + (high - low) * np.array([0.25, 0.75])
    for _ in range(100):
        points = np.array([low, q, r, high])
        system = np.stack([points, points**3, points**5, [1, -1, 1, -1]], axis=1)
        a, b, c = (float(v) for v in np.linalg.solve(system, np.ones(4))[:3])
        before = (q, r)
        q, r = _turning_points(a, b, c)
        if max(abs(q - before[0]), abs(r - before[1])) < 1e-12 * high:
            break
    return a, b, c


def _turning_points(a: float, b: float, c: float) -> tuple[float, float]:
    """The two zeros x > 0 of a + 3 b x^2 + 5 c x^4, ascending."""
    root = math.sqrt(max(9 * b * b - 20 * a * c, 0.0))
    return math.sqrt((-3 * b - root) / (10 * c)), math.sqrt((-3 * b + root) / (10 * c))
