"""Runs over a model's weights, and the change a method proposes, as plain tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from replastic import methods, recipes
from replastic.weights.change import LayerOutcome
from replastic.weights.module_store import ModuleStore


@pytest.fixture
def run_on() -> Callable[..., methods.Run]:
    """Function (model, **fields) -> a run over its live weights with the default recipe."""

    def make(model: nn.Module, **given: Any) -> methods.Run:
        recipe = recipes.load(given.pop("recipe", "default"))
        return methods.Run(store=ModuleStore(model), recipe=recipe, model=model, **given)

    return make


@pytest.fixture
def proposed() -> Callable[..., tuple[dict[str, Tensor], dict[str, LayerOutcome]]]:
    """Function (method, run) -> new values by name, and what is reported by layer label."""

    def make(method: methods.Method, run: methods.Run) -> tuple[dict[str, Tensor], dict[str, LayerOutcome]]:
        methods.check_needs(method, run)
        method.setup(run)
        change = method.on_boundary(run)
        assert change is not None
        proposals = list(change.proposals)
        layers = {
            f"{layer.weight}[{layer.block}]" if layer.block else layer.weight: layer
            for proposal in proposals
            for layer in proposal.layers
        }
        return {p.name: p.value for p in proposals}, layers

    return make
