"""Measures that train a copy, and the options that measures may have."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic import metrics, recipes
from replastic.errors import UserError
from replastic.weights.module_store import ModuleStore

DRAW = torch.Generator().manual_seed(0)
BATCH = (torch.randn(48, 10, generator=DRAW), torch.randint(4, (48,), generator=DRAW))


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return functional.cross_entropy(model(batch[0]), batch[1])


def network(dead: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 4))
    if dead:
        with torch.no_grad():
            model[0].bias.fill_(-1e6)
    return model


def value(spec: str, model: nn.Module, seed: int = 0, *beside: str) -> float:
    found = metrics.measure(
        [*beside, spec],
        store=ModuleStore(model),
        recipe=recipes.load("default"),
        model=model,
        batch=BATCH,
        loss_fn=loss_fn,
        generator=torch.Generator().manual_seed(seed),
    )
    return float(found[f"metric/{spec.partition(':')[0]}"])


def test_a_network_that_learns_and_one_that_is_dead() -> None:
    spec = "plasticity:steps=60,learning_rate=0.01,batch_size=0"
    assert value(spec, network()) > 0.4
    assert value(spec, network(dead=True)) == pytest.approx(0, abs=1e-6)
    assert value("plasticity:steps=2", network()) < 0.1, "the budget counts"


def test_it_depends_on_the_seed_alone_and_not_on_the_measures_beside_it() -> None:
    spec, model = "plasticity:steps=20,batch_size=16", network()
    assert value(spec, model) == value(spec, model) == value(spec, model, 0, "hessian_top", "trainability:steps=3")
    assert value(spec, model) != value(spec, model, 1)
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert value(spec, network()) == value(spec, model), "dropout is drawn from the run's seed"


@pytest.mark.parametrize("tau", [0.2, 5.0])
def test_trainable_where_the_steps_bring_the_loss_below_tau(tau: float) -> None:
    spec = f"trainability:steps=30,learning_rate=0.05,optimizer=sgd,batch_size=0,tau={tau}"
    twin = copy.deepcopy(network())
    twin[2].p = 0.0
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05)
    for _ in range(30):
        optimizer.zero_grad()
        loss_fn(twin, BATCH).backward()
        optimizer.step()
    assert value(spec, network()) == float(float(loss_fn(twin, BATCH).detach()) < tau)
    assert value("trainability:steps=300,learning_rate=0.01,tau=0.3", network()) == 1
    assert value("trainability:steps=300,learning_rate=0.01,tau=0.3", network(dead=True)) == 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("plasticity:steps=0", "plasticity: steps must be at least 1, got 0"),
        ("plasticity:optimizer=lion", "plasticity: optimizer must be one of adam, sgd, got 'lion'"),
        ("plasticity:stpes=3", "plasticity has no option 'stpes'; did you mean 'steps'"),
        ("trainability:tau=inf", "trainability: tau must be finite"),
        ("dfi:steps=3", "dfi has no option 'steps'; it has: none"),
    ],
)
def test_wrong_options(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        metrics.from_spec(spec)


def test_one_measure_has_one_key() -> None:
    with pytest.raises(UserError, match="plasticity is asked for twice, with different options"):
        metrics.by_name(["plasticity", "plasticity:steps=5"])
    assert list(metrics.by_name(["plasticity:steps=5", "dfi", "dfi"])) == ["plasticity", "dfi"]
