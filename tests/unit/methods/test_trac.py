"""TRAC by hand, and against numbers from the authors' code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import replastic
from replastic import methods
from replastic.errors import UserError
from replastic.linalg import erfi

RunOn = Callable[..., methods.Run]
BETAS = (0.9, 0.99, 0.999, 0.9999, 0.99999, 0.999999)


def line() -> nn.Linear:
    model = nn.Linear(3, 1).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
        model.bias.zero_()
    return model


def problem(update: int) -> tuple[Tensor, Tensor]:
    """A regression whose targets change sign after 150 updates."""
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(100 + update), dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    return x, y if update < 150 else -y


def trained(spec: str, model: nn.Module, optimizer: torch.optim.Optimizer, updates: int, **given: Any) -> list[float]:
    """Scales after every update."""
    scales = []
    with replastic.during(spec, model, optimizer, **given) as method:
        for update in range(updates):
            x, y = problem(update)
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
            method.after_update()
            scales.append(float(method.state_dict()["method/tuners"][:, 2].sum()))
    return scales


AUTHORS = {
    "sgd": {
        0: (1.0058226987420796e-07, (1.5409960509794232, -0.29342893763050476, -2.178789262712214)),
        99: (0.10748748088846419, (0.9969922123449172, -1.9177544075764708, 0.48417322764433024)),
        299: (0.10443657194024135, (-1.0074310212222155, 1.8605320302868145, -0.2646900034927193)),
    },
    "adam": {
        0: (1.0058226987420796e-07, (1.5409961072382206, -0.2934289067667691, -2.178789381068735)),
        99: (3.887617715434963, (0.5160136061483231, -2.65151662424118, 0.31738875214654927)),
        299: (2.783939639557184, (-1.1126188677539215, 1.6967835011679875, -0.17037573256092076)),
    },
}
"""Scale and weights after so many updates, from trac-optimizer 0.0.2 (github.com/ComputationalRobotics/TRAC), in
float64 and with an exact erfi in the place of its own, which is off by .3%."""


@pytest.mark.parametrize("name", AUTHORS)
def test_the_authors_code_gives_the_same_numbers(name: str) -> None:
    for update, (scale, weight) in AUTHORS[name].items():
        model = line()
        optimizer: torch.optim.Optimizer = (
            torch.optim.SGD(model.parameters(), lr=0.1)
            if name == "sgd"
            else torch.optim.Adam(model.parameters(), lr=0.01)
        )
        assert trained("trac", model, optimizer, update + 1)[-1] == pytest.approx(scale, rel=1e-8)
        assert model.weight.detach().flatten().tolist() == pytest.approx(weight, rel=1e-8)


def test_every_update_by_hand() -> None:
    """Algorithms 1 and 2 for plain gradient descent, on numbers rather than on a network."""
    model = line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    reference = theta.clone()
    variance, sigma, scale = [0.0] * 6, [1e-8] * 6, 0.0
    with replastic.during("trac", model, optimizer) as method:
        for update in range(120):
            x, y = problem(update)
            features = torch.cat([x, torch.ones(8, 1, dtype=torch.float64)], 1)
            gradient = 2 / 8 * features.T @ (features @ theta - y.flatten())
            way = (theta - reference) / (scale + 1e-8)
            h = float(gradient @ way)
            variance = [b**2 * v + h**2 for b, v in zip(BETAS, variance, strict=True)]
            sigma = [b * s - h for b, s in zip(BETAS, sigma, strict=True)]
            scale = sum(
                1e-8 / erfi(math.sqrt(0.5)) * erfi(s / (math.sqrt(2 * v) + 1e-8))
                for s, v in zip(sigma, variance, strict=True)
            )
            theta = reference + max(scale, 0.0) * (way - 0.1 * gradient)
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
            method.after_update()
            found = torch.cat([p.detach().flatten() for p in model.parameters()])
            torch.testing.assert_close(found, theta, rtol=1e-9, atol=1e-12)
    assert scale > 0.01, "the way became longer"


def test_the_initial_weights_may_be_the_reference_point() -> None:
    model = line()
    zero = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scales = trained("trac:toward=init", model, optimizer, 1, init=zero)
    start = line().weight.detach()
    torch.testing.assert_close(model.weight.detach(), max(scales[0], 0.0) * start / 1e-8, rtol=1e-6, atol=0)
    with pytest.raises(UserError, match="trac needs the initial weights"):
        replastic.during("trac:toward=init", model, optimizer)


def test_weights_that_another_method_writes_are_where_the_next_update_begins() -> None:
    last = nn.Linear(1, 1).double()
    nn.init.ones_(last.weight)  # else a draw near zero keeps the tuner at the initial weights
    nn.init.zeros_(last.bias)
    model = nn.Sequential(line(), last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    init = {name: value.clone() for name, value in model.state_dict().items()}
    with replastic.during("trac+full_reset", model, optimizer, init=init) as method:
        for update in range(60):
            x, y = problem(update)
            optimizer.zero_grad()
            (model(x) - y).square().mean().backward()
            optimizer.step()
            method.after_update()
        assert not torch.equal(model[0].weight, init["0.weight"])
        method.cross()
        kept = {k: v for k, v in method.state_dict().items() if "before/" in k}
        assert kept
        assert all(torch.equal(value, init[key.partition("before/")[2]]) for key, value in kept.items())


def test_cleared_gradients_are_refused_in_a_sentence() -> None:
    model = line()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with replastic.during("trac", model, optimizer) as method:
        x, y = problem(0)
        (model(x) - y).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        with pytest.raises(UserError, match="trac reads the gradients after the optimizer's step, but there are none"):
            method.after_update()


def test_wrong_options_are_named() -> None:
    with pytest.raises(UserError, match="initial"):
        methods.from_spec("trac:initial=0")
    with pytest.raises(UserError, match="trac must come first in ewc"):
        methods.from_spec("ewc+trac")
