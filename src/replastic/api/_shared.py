"""Shared by the calls for live models and for files: from names to objects, from a method to its change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from replastic import methods, recipes
from replastic.api._calls import argument_names
from replastic.errors import UserError, did_you_mean, near_misses
from replastic.interventions.attached import Attached
from replastic.interventions.passes import as_passes
from replastic.options import name_of, pieces, read
from replastic.probes import check_loss_fn, last_products
from replastic.text import shown
from replastic.weights.layout_spec import parse_layouts
from replastic.weights.module_store import ModuleStore
from replastic.weights.output_layers import SEEN, output_name
from replastic.weights.recipe import Recipe
from replastic.weights.redraw import redraw
from replastic.weights.shards import is_sharded, local
from replastic.weights.tables import check_table

LossFunction = Callable[[nn.Module, Any], Tensor]
"""loss_fn(model, batch) -> mean loss, a scalar tensor."""
Checkpoints = Sequence[Mapping[str, Tensor] | methods.Checkpoint]
"""Earlier states of the model, the oldest first."""


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


def as_recipe(recipe: str | Path | Recipe, layout: str | Sequence[str] = ()) -> Recipe:
    """The recipe itself, or the one of that name or file, with the layouts that the caller gives.

    Raises:
        UserError: It is neither, there is none of that name, or a layout cannot be read.
    """
    if not isinstance(recipe, str | Path | Recipe):
        raise UserError(f"recipe must be a name, the path of a TOML file or a Recipe, got {recipe!r}")
    found = recipe if isinstance(recipe, Recipe) else recipes.load(recipe)
    return replace(found, layouts=(*found.layouts, *parse_layouts(layout))) if layout else found


def method_class(spec: str) -> type[methods.Method]:
    """The class of the one method that a spec names.

    Raises:
        UserError: There is none of that name, or the spec joins several.
    """
    if len(pieces(spec)) > 1:
        _refuse_several(methods.from_spec(spec))
    return methods.get(name_of(spec))


def as_method(
    method: str | methods.Method, options: Mapping[str, Any], call: Callable[..., Any], *, several: bool = False
) -> methods.Method:
    """The method itself, or the one a name or spec describes, with these hyperparameters.

    Args:
        method: What the caller gave.
        options: Keyword arguments that the call itself does not know.
        call: The function called, as one of its own arguments may be what was meant.
        several: Whether a spec may join several methods.

    Raises:
        UserError: Unknown name or option, an option that the spec gives too, options beside a method object, or
            several methods in one.
    """
    if isinstance(method, str) and several and len(pieces(method)) > 1:
        method = methods.from_spec(method, **options)
    elif isinstance(method, str):
        kind = method_class(method)
        arguments = argument_names(call)
        for option in options.keys() - {f.name for f in fields(kind)}:
            if near_misses(option, arguments):
                raise UserError(f"there is no argument {option!r}{did_you_mean(option, arguments)}")
        _, given = read(method, methods.get)
        for option in options:
            if option in given:
                raise UserError(f"{option} is given twice, in {method!r} and as an option: leave one out")
        method, options = methods.from_spec(method, **options), {}
    if not isinstance(method, methods.Method):
        named = "a name such as 'fire', or a method object (methods.from_spec)"
        raise UserError(f"method must be {named}, got {shown(method)}")
    if options:
        raise UserError(f"options {', '.join(options)} have no effect on a method object: set its fields instead")
    if not several:
        _refuse_several(method)
    return method


def _refuse_several(method: methods.Method) -> None:
    if len(method.parts) > 1:
        raise UserError(f"{methods.spec_of(method)} is for training runs; here apply its parts one after the other")


def boundary_method(method: methods.Method) -> methods.Method:
    """The method itself.

    Raises:
        UserError: It does not act between phases.
    """
    if not method.acts_between_phases:
        raise UserError(
            f"{methods.spec_of(method)} acts during training, not between phases: use replastic.during in your loop"
        )
    return method


def check_seed(seed: object) -> int:
    """The seed itself.

    Raises:
        UserError: It is no whole number.
    """
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise UserError(f"seed must be a whole number, got {seed!r}")
    return int(seed)


def without_effect(attached: Attached, **given: object) -> tuple[str, ...]:
    """Notes on what was given although neither the method nor the recipe's rules use it."""
    idle = attached.unused(given)
    return (f"without effect on {attached.method.name}: {', '.join(idle)}",) if idle else ()


def agreement(ranks: object) -> Literal["always", "never"]:
    """When the processes of a group have to agree, by the argument `ranks` of a public call.

    Raises:
        UserError: It is neither ``same`` nor ``independent``.
    """
    if ranks not in ("same", "independent"):
        raise UserError(
            "ranks must be 'same' (the processes of a torch.distributed group hold copies of one model) or "
            f"'independent' (each has its own), got {ranks!r}"
        )
    return "always" if ranks == "same" else "never"


def live_store(model: object, batch: Any = None, loss_fn: LossFunction | None = None) -> ModuleStore:
    """The weights of a live model. With a batch and a loss, a pass tells its output layers; see `last_products`.

    Raises:
        UserError: It is no module, or one whose parameters cannot be reached.
    """
    module = as_model(model)
    seen = () if loss_fn is None else last_products(module, batch, loss_fn)
    return ModuleStore(module, outputs={output_name(name): SEEN for name in seen})


def live_run(
    model: nn.Module,
    *,
    recipe: str | Path | Recipe,
    target_modules: str | Sequence[str] | None,
    exclude_modules: Sequence[str],
    include: Sequence[str],
    init: Mapping[str, Tensor] | None,
    fresh: Callable[[int], Mapping[str, Tensor]] | None,
    batches: Callable[[], Iterable[Any]] | Iterable[Any] | None,
    loss_fn: LossFunction | None,
    seed: int,
    checkpoints: Checkpoints | None = None,
    phase: int = -1,
    probe: tuple[Any, LossFunction] | None = None,
) -> methods.Run:
    """The view a method gets of a live model, from the arguments of a public call.

    Raises:
        UserError: One of them is not what it should be.
    """
    if fresh is not None and not callable(fresh):
        raise UserError(f"fresh must be a function from a seed to a state dict, got {type(fresh).__name__}")
    if loss_fn is not None:
        check_loss_fn(loss_fn)
    given, count = (None, 0) if batches is None else as_passes(batches)
    if probe is None and loss_fn is not None and isinstance(batches, list | tuple) and batches:
        probe = batches[0], loss_fn
    return methods.Run(
        store=live_store(model, *(probe or ())),
        recipe=as_recipe(recipe),
        target_modules=target_modules,
        exclude_modules=exclude_modules,
        include=include,
        model=model,
        init=None if init is None else _initial(init, model),
        fresh=fresh or partial(redraw, model),
        batches=given,
        loss_fn=loss_fn,
        checkpoints=None if checkpoints is None else _earlier(checkpoints),
        seed=check_seed(seed),
        phase=phase,
        pass_steps=count,
    )


def _earlier(given: Checkpoints) -> list[methods.Checkpoint]:
    """Checkpoints of any form: state dicts are numbered from 1 on."""
    if not isinstance(given, Sequence) or isinstance(given, str) or not given:
        raise UserError("checkpoints must be a list of state dicts, the oldest first, with one at least")
    return [
        one
        if isinstance(one, methods.Checkpoint)
        else methods.Checkpoint(number, partial(check_table, one, f"checkpoint {number} of checkpoints"))
        for number, one in enumerate(given, 1)
    ]


def _initial(given: Mapping[str, Tensor], model: nn.Module) -> Mapping[str, Tensor]:
    """The initial weights, which must not be the model's own: `state_dict()` hands out those."""
    table = check_table(given, "init")
    for name, own in (*model.named_parameters(), *model.named_buffers()):
        there = table.get(name)
        if there is None or is_sharded(there) != is_sharded(own):
            continue
        if _in_memory(there) and _in_memory(own) and local(there).data_ptr() == local(own).data_ptr():
            raise UserError(
                f"init holds {name} of the model itself, trained by now, and no copy from before: keep "
                "copy.deepcopy(model.state_dict()) when the model is made"
            )
    return table


def _in_memory(tensor: Tensor) -> bool:
    """Whether it, or the own part of it, is a plain tensor whose place in memory tells it from others."""
    plain = not is_lazy(tensor) and type(local(tensor)) is Tensor and tensor.layout == torch.strided
    return plain and not tensor.is_meta and local(tensor).numel() > 0
