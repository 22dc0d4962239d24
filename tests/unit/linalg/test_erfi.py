"""The imaginary error function against numerical integration and its known values."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from replastic.linalg import erfi


@given(st.floats(-5, 5))
def test_it_is_the_integral_of_exp_of_squares(x: float) -> None:
    """By Gauss's rule for Chebyshev points: Clenshaw-Curtis on 400 points."""
    n = 400
    angle = torch.arange(n + 1, dtype=torch.float64) * math.pi / n
    points, orders = angle.cos(), torch.arange(0, n + 1, 2, dtype=torch.float64)
    ends = torch.ones(n + 1, dtype=torch.float64)
    ends[[0, -1]] = 0.5
    values = (x * (points + 1) / 2).square().exp() * ends
    coefficients = (2 / n) * (torch.outer(orders, angle).cos() @ values)
    coefficients[[0, -1]] *= 0.5
    integral = float((coefficients * 2 / (1 - orders.square())).sum()) * x / 2
    assert erfi(x) == pytest.approx(2 / math.sqrt(math.pi) * integral, rel=1e-10, abs=1e-300)


def test_known_values() -> None:
    assert erfi(0.0) == 0.0
    assert erfi(1.0) == pytest.approx(1.6504257587975428760, rel=1e-15)
    assert erfi(-1.0) == -erfi(1.0)
    assert erfi(1 / math.sqrt(2)) == pytest.approx(0.95343826925126061, rel=1e-14)
    assert erfi(6.0) == pytest.approx(4.1127514558282400e14, rel=1e-9)
    assert erfi(26.0) < math.inf
    assert erfi(27.0) == math.inf
    assert erfi(-27.0) == -math.inf
