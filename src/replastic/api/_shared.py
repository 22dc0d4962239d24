"""What the calls for live models and for files have in common: from names to objects, from a method to its change."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from inspect import Parameter, signature
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
from torch import nn

from replastic import methods, recipes
from replastic.errors import UserError, did_you_mean, near_misses
from replastic.options import name_of, pieces, read
from replastic.weights.change import Change
from replastic.weights.recipe import Recipe


def as_model(model: object) -> nn.Module:
    """The module itself.

    Raises:
        UserError: It is something else, or TorchScript, whose parameters cannot be reached one by one.
    """
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model must be a torch.nn.Module, got {type(model).__name__}; for files there are inspect() and rewrite()"
        )
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            raise UserError(
                f"{name or 'model'} is a TorchScript module: pass the module it was made from instead, or save the "
                "state dict, torch.save(model.state_dict(), path), and use inspect() and rewrite()"
            )
    return model


def check_flags(**flags: object) -> None:
    """See that arguments that switch something are booleans: a text such as "no" would count as yes.

    Raises:
        UserError: One is not.
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise UserError(f"{name} must be True or False, got {value!r}")


def as_recipe(recipe: str | Path | Recipe) -> Recipe:
    """The recipe itself, or the one of that name or file.

    Raises:
        UserError: It is neither, or there is none of that name.
    """
    if not isinstance(recipe, str | Path | Recipe):
        raise UserError(f"recipe must be a name, the path of a TOML file or a Recipe, got {recipe!r}")
    return recipe if isinstance(recipe, Recipe) else recipes.load(recipe)


def method_class(spec: str) -> type[methods.Method]:
    """The class of the one method that a spec names.

    Raises:
        UserError: There is none of that name, or the spec joins several.
    """
    if len(pieces(spec)) > 1:
        _refuse_several(methods.from_spec(spec))
    return methods.get(name_of(spec))


def as_method(method: str | methods.Method, options: Mapping[str, Any], call: Callable[..., Any]) -> methods.Method:
    """The method itself, or the one a name or spec describes, with these hyperparameters.

    Args:
        method: What the caller gave.
        options: Keyword arguments that the call itself does not know.
        call: The function called, as one of its own arguments may be what was meant.

    Raises:
        UserError: Unknown name or option, an option that the spec gives too, options beside a method object, or
            several methods in one.
    """
    if isinstance(method, str):
        kind = method_class(method)
        arguments = [name for name, p in signature(call).parameters.items() if p.kind is Parameter.KEYWORD_ONLY]
        for option in options.keys() - {f.name for f in fields(kind)}:
            if near_misses(option, arguments):
                raise UserError(f"there is no argument {option!r}{did_you_mean(option, arguments)}")
        _, given = read(method, methods.get)
        for option in options:
            if option in given:
                raise UserError(f"{option} is given twice, in {method!r} and as an option: leave one out")
        method, options = methods.from_spec(method, **options), {}
    if not isinstance(method, methods.Method):
        raise UserError(f"method must be a name such as 'fire', or a method object (methods.from_spec), got {method!r}")
    if options:
        raise UserError(f"options {', '.join(options)} have no effect on a method object: set its fields instead")
    _refuse_several(method)
    return method


def _refuse_several(method: methods.Method) -> None:
    if len(method.parts) > 1:
        raise UserError(f"{methods.spec_of(method)} is for training runs; here apply its parts one after the other")


@contextmanager
def proposed(method: methods.Method, run: methods.Run) -> Iterator[Change]:
    """What the method proposes for this run, to be written inside the `with` block.

    Raises:
        UserError: Something the method needs is missing, or it does not act between phases.
    """
    if type(method).on_boundary is methods.Method.on_boundary:
        raise UserError(
            f"{methods.spec_of(method)} acts during training, not between phases: try it with replastic run"
        )
    if isinstance(run.seed, bool) or not isinstance(run.seed, Integral):
        raise UserError(f"seed must be a whole number, got {run.seed!r}")
    methods.check_needs(method, run)
    try:
        method.setup(run)
        yield method.on_boundary(run) or Change()
    finally:
        method.close()


def without_effect(method: methods.Method, run: methods.Run, given: Mapping[methods.Need, object]) -> tuple[str, ...]:
    """Notes on what was given although neither the method nor the recipe's rules use it."""
    names = {"loss": "loss_fn"}
    used = methods.used(method, run)
    idle = [names.get(need, need) for need, value in given.items() if value is not None and need not in used]
    return (f"without effect on {method.name}: {', '.join(idle)}",) if idle else ()
