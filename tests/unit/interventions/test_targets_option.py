"""The option `targets` of methods that regularise matrices: exactly those that the patterns name."""

import pytest
import torch
from torch import nn

from replastic import methods, recipes
from replastic.errors import UserError
from replastic.weights.module_store import ModuleStore


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q = nn.Linear(4, 4, bias=False)
        self.k = nn.Linear(4, 4, bias=False)
        self.fc = nn.Linear(4, 6, bias=False)


def _run(model: nn.Module, recipe: str) -> methods.Run:
    return methods.Run(store=ModuleStore(model), recipe=recipes.load(recipe), model=model)


@pytest.mark.parametrize(
    ("recipe", "targets", "names"),
    [("paper-vit", "", "qk"), ("paper-vit", "q|fc", ("q", "fc")), ("default", "fc", ("fc",))],
)
def test_parseval_takes_the_matrices_that_are_named(recipe: str, targets: str, names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model = Net().double()
    spec = f"parseval:strength=1,targets={targets}" if targets else "parseval:strength=1"
    method, run = methods.from_spec(spec), _run(model, recipe)
    methods.check_needs(method, run)
    method.setup(run)
    found = method.penalty(run)
    by_hand = sum(
        float((w @ w.T - torch.eye(len(w), dtype=w.dtype)).square().sum())
        for w in (model.get_submodule(name).weight.detach() for name in names)
    )
    assert found is not None
    assert float(found.detach()) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("name", ["parseval", "spectral", "nap", "fire"])
def test_an_empty_pattern_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="patterns joined by"):
        methods.from_spec(f"{name}:targets=q||k")
