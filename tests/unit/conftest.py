"""Runs over a model's weights, and what a method makes of them at a boundary, as plain tensors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from torch import Tensor, nn

from replastic import methods, recipes
from replastic.interventions.attached import Attached
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
    """Function (method, run) -> new values by name, and what is reported by layer label.

    The method crosses the boundary before the phase that the run names; the weights are put back afterwards.
    """

    def make(method: methods.Method, run: methods.Run) -> tuple[dict[str, Tensor], dict[str, LayerOutcome]]:
        optimizers = {} if run.optimizer is None else {"": run.optimizer}
        with Attached(method, replace(run, phase=run.phase - 1), optimizers) as attached:
            attached.begin()
            outcomes = attached.cross()
        new = {name: run.store.read(name).clone() for outcome in outcomes for name in outcome.written}
        for outcome in reversed(outcomes):
            outcome.undo_()
        return new, {layer.label: layer for outcome in outcomes for layer in outcome.layers}

    return make
