"""The method upgd: its settings, and noise that depends on the run's seed and the update alone."""

from __future__ import annotations

import torch
from torch import nn

import replastic
from replastic.optim import UPGD


def trained(seed: int = 0, stop: int = 0, spec: str = "upgd:sigma=0.5") -> list[torch.Tensor]:
    """Two optimizers over four updates, taken over by new objects after `stop` of them."""
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(0.1)

    def optimizers() -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(layer.parameters()) for layer in model]

    method = replastic.during(spec, model, optimizers(), seed=seed)
    for number in range(4):
        if number == stop > 0:
            states = [o.state_dict() for o in method.optimizers.values()]
            saved = method.state_dict()
            method.close()
            method = replastic.during(spec, model, optimizers(), seed=seed)
            method.load_state_dict(saved)
            for optimizer, state in zip(method.optimizers.values(), states, strict=True):
                optimizer.load_state_dict(state)
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        for optimizer in method.optimizers.values():
            assert isinstance(optimizer, UPGD)
            optimizer.step()
        method.after_update()
    method.close()
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_noise_depends_on_seed_and_update_alone() -> None:
    whole = trained()
    assert same(whole, trained(stop=2))
    assert not same(whole, trained(seed=1))


def test_settings_are_the_methods_own() -> None:
    model = nn.Linear(3, 3)
    groups = [{"params": [model.weight], "lr": 7.0, "weight_decay": 3.0}, {"params": [model.bias]}]
    spec = "upgd:lr=0.5,sigma=0.25,beta=0.75,decay=0.125,protect=false"
    with replastic.during(spec, model, torch.optim.AdamW(groups)) as method:
        for group in method.optimizer.param_groups:
            settings = {key: value for key, value in group.items() if key != "params"}
            assert settings == {"lr": 0.5, "sigma": 0.25, "beta": 0.75, "weight_decay": 0.125, "protect": False}
