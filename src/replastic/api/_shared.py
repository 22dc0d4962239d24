"""What the calls for live models and for files have in common: from names to objects, from a method to its change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from replastic import methods, recipes
from replastic.errors import UserError
from replastic.weights.change import Change
from replastic.weights.recipe import Recipe


def as_recipe(recipe: str | Path | Recipe) -> Recipe:
    """The recipe itself, or the one of that name or file."""
    return recipe if isinstance(recipe, Recipe) else recipes.load(recipe)


def as_method(method: str | methods.Method, options: Mapping[str, Any]) -> methods.Method:
    """The method itself, or the one a name or spec describes, with these hyperparameters.

    Raises:
        UserError: Unknown name or option, or options beside a method object.
    """
    if isinstance(method, str):
        return methods.from_spec(method, **options)
    if options:
        raise UserError(f"options {', '.join(options)} have no effect on a method object: set its fields instead")
    return method


@contextmanager
def proposed(method: methods.Method, run: methods.Run) -> Iterator[Change]:
    """What the method proposes for this run, to be written inside the `with` block.

    Raises:
        UserError: Something the method needs is missing, or it does not act between phases.
    """
    methods.check_needs(method, run)
    try:
        method.setup(run)
        change = method.on_boundary(run)
        if change is None:
            raise UserError(f"{methods.spec_of(method)} acts during training, not between phases: give it to a run")
        yield change
    finally:
        method.close()
