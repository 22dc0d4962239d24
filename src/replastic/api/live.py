"""The calls for a live model: `fire_`, `apply_`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from replastic import methods, recipes
from replastic.api._calls import OptionValue, public
from replastic.api._shared import (
    Checkpoints,
    LossFunction,
    agreement,
    as_method,
    as_recipe,
    boundary_method,
    check_flags,
    live_run,
    without_effect,
)
from replastic.errors import UserError
from replastic.interventions.attached import Attached
from replastic.probes import check_loss_fn, loss_on, undisturbed
from replastic.weights.followers import Followers
from replastic.weights.optimizer_state import Optimizers, Policy, by_name
from replastic.weights.outcome import Outcome, Undo
from replastic.weights.recipe import Recipe


@public
def fire_(
    model: nn.Module,
    optimizer: Optimizers = None,
    *,
    policy: Policy = "reset_touched",
    followers: Followers | None = None,
    recipe: str | Path | Recipe = recipes.DEFAULT,
    target_modules: str | Sequence[str] | None = None,
    exclude_modules: Sequence[str] = (),
    include: Sequence[str] = (),
    layout: str | Sequence[str] = (),
    init: Mapping[str, Tensor] | None = None,
    fresh: Callable[[int], Mapping[str, Tensor]] | None = None,
    batches: Callable[[], Iterable[Any]] | Iterable[Any] | None = None,
    loss_fn: LossFunction | None = None,
    checkpoints: Checkpoints | None = None,
    probe: tuple[Any, LossFunction] | None = None,
    seed: int = 0,
    dry_run: bool = False,
    staging: Literal["memory", "disk"] = "memory",
    ranks: Literal["same", "independent"] = "same",
    solver: str | None = None,
    scale: str | None = None,
    on_zero: str | None = None,
    num_iters: int | None = None,
    coefficients: str | None = None,
    tol: float | None = None,
    max_iters: int | None = None,
    polish: int | None = None,
    complete: bool | None = None,
    targets: str | None = None,
) -> Outcome:
    """Project the weight matrices of `model` to their nearest orthonormal ones, in place, between two training phases.

    The same as ``apply_("fire", model, ...)``. The arguments from `solver` on are options of fire: one that is None is
    that of the recipe, or else the default.

    Args:
        model: The module to change.
        optimizer: The optimizer that will go on training it, so that its moments can follow.
        policy: As in `apply_`, like all up to `ranks`.
        followers: Copies that must follow.
        recipe: Which weights.
        target_modules: Patterns that replace the recipe's choice, or ``"all-linear"``.
        exclude_modules: Patterns that are left alone whatever else says.
        include: Roles taken although the recipe leaves them alone: ``head``, ``embedding``, ``router``, ``depthwise``,
            ``adapter``.
        layout: How weights are cut whose class is unknown, or is to be overruled, such as ``qkv:split=q+k+v``.
        init: State dict of the model at initialisation, for ``scale="init"``.
        fresh: Draws a new initial state dict from a seed, for rules of the recipe that name a method that needs it.
        batches: Data, for such rules.
        loss_fn: ``loss_fn(model, batch)``, for such rules.
        checkpoints: State dicts from on the way, where a rule of the recipe names a method that goes back to one.
        probe: ``(batch, loss_fn)``: print the loss on that batch before and after.
        seed: Seed of everything that is drawn.
        dry_run: Compute and report all, write nothing.
        staging: ``memory`` or ``disk``.
        ranks: ``same`` or ``independent``.
        solver: ``exact`` (default), ``iterative``, ``fast``, ``newton_schulz`` or ``svd``.
        scale: ``modular`` (default, the paper's), ``modular_norm``, ``preserve``, ``init``, ``procrustes``, ``unit``,
            or ``auto``: ``modular`` if most weights lie before norms, else ``preserve`` (give batches and loss_fn).
        on_zero: For an all-zero matrix: ``error`` (default), ``skip`` or ``complete``.
        num_iters: Of ``newton_schulz``: number of steps.
        coefficients: Of ``newton_schulz``: ``cubic`` or ``quintic``.
        tol: Of ``iterative``: largest residual accepted.
        max_iters: Of ``iterative``: most steps allowed.
        polish: Of ``fast``: further steps in float32.
        complete: Whether directions that a weight of low rank lacks are filled up.
        targets: Patterns joined by ``|`` that replace the recipe's choice of weights.

    Reference: FIRE (Han et al., ICLR 2026), section 3 and Algorithm 1. Differs from the authors' code in its defaults:
    an exact factor instead of 5 or 10 iterations; heads and embeddings are left alone. ``recipe="paper-cnn"`` (or
    ``paper-vit``, ``paper-gpt``, ...) does as they do.
    """
    options: dict[str, Any] = {
        "solver": solver,
        "scale": scale,
        "on_zero": on_zero,
        "num_iters": num_iters,
        "coefficients": coefficients,
        "tol": tol,
        "max_iters": max_iters,
        "polish": polish,
        "complete": complete,
        "targets": targets,
    }
    return apply_(
        "fire",
        model,
        optimizer,
        policy=policy,
        followers=followers,
        recipe=recipe,
        layout=layout,
        target_modules=target_modules,
        exclude_modules=exclude_modules,
        include=include,
        init=init,
        fresh=fresh,
        batches=batches,
        loss_fn=loss_fn,
        checkpoints=checkpoints,
        probe=probe,
        seed=seed,
        dry_run=dry_run,
        staging=staging,
        ranks=ranks,
        **{name: value for name, value in options.items() if value is not None},
    )


@public
def apply_(
    method: str | methods.Method,
    model: nn.Module,
    optimizer: Optimizers = None,
    *,
    policy: Policy = "reset_touched",
    followers: Followers | None = None,
    recipe: str | Path | Recipe = recipes.DEFAULT,
    target_modules: str | Sequence[str] | None = None,
    exclude_modules: Sequence[str] = (),
    include: Sequence[str] = (),
    layout: str | Sequence[str] = (),
    init: Mapping[str, Tensor] | None = None,
    fresh: Callable[[int], Mapping[str, Tensor]] | None = None,
    batches: Callable[[], Iterable[Any]] | Iterable[Any] | None = None,
    loss_fn: LossFunction | None = None,
    checkpoints: Checkpoints | None = None,
    probe: tuple[Any, LossFunction] | None = None,
    seed: int = 0,
    dry_run: bool = False,
    staging: Literal["memory", "disk"] = "memory",
    ranks: Literal["same", "independent"] = "same",
    **options: OptionValue,
) -> Outcome:
    """Rewrite the weights of `model` in place, all of them or none, as the method of that name proposes.

    Parameters keep their identity, dtype, device, memory format and `requires_grad`. Nothing is written unless every
    new value is finite. What was left alone is listed in the outcome with the reason.

    Args:
        method: Name (``replastic list methods``), a spec such as ``"fire:solver=fast"``, or a method object.
        model: The module to change.
        optimizer: The optimizer that will go on training it, so that its moments can follow.
        policy: ``reset_touched`` drops the state of rewritten parameters, ``reset_all`` all state, ``keep`` none.
        followers: Copies that must follow (target networks, averages, fp32 masters), by a name used in messages.
        recipe: Which weights; a name (``replastic list recipes``), a TOML file, or a `Recipe`.
        target_modules: Patterns that replace the recipe's choice, or ``"all-linear"``.
        exclude_modules: Patterns that are left alone whatever else says.
        include: Roles taken although the recipe leaves them alone: ``head``, ``embedding``, ``router``, ``depthwise``,
            ``adapter``.
        layout: How weights are cut whose class is unknown, or is to be overruled, such as ``qkv:split=q+k+v``.
        init: State dict of the model at initialisation, a copy, for methods that need it.
        fresh: Draws a new initial state dict from a seed; by default each module's `reset_parameters` does.
        batches: Data of the coming phase (an iterable, or a function that returns one), for methods that need it.
        loss_fn: ``loss_fn(model, batch)``, for methods that need it.
        checkpoints: State dicts of the model from on the way, the oldest first, for methods that go back to one; a
            `methods.Checkpoint` also says of which update it is, whether it is the best, and is read when needed.
        probe: ``(batch, loss_fn)``: print the loss on that batch before and after.
        seed: Seed of everything the method draws.
        dry_run: Compute and report all, write nothing.
        staging: Where new values wait: ``memory``, or ``disk`` for models as large as the memory.
        ranks: In a group of torch.distributed: ``same`` sees to it that every process writes the same into the same
            weights, and refuses otherwise; ``independent`` is for processes that have a model of their own each.
        options: Hyperparameters of the method, when it was given by name.

    Raises:
        UserError: Wrong input; the model is unchanged.
    """
    chosen = boundary_method(as_method(method, options, apply_))
    check_flags(dry_run=dry_run)
    told = None if probe is None else _probe(probe)
    run = live_run(
        model,
        recipe=as_recipe(recipe, layout),
        target_modules=target_modules,
        exclude_modules=exclude_modules,
        include=include,
        init=init,
        fresh=fresh,
        batches=batches,
        loss_fn=loss_fn,
        checkpoints=checkpoints,
        seed=seed,
        probe=told,
    )
    before = None if told is None else probe_loss(model, *told)
    optimizers = by_name(optimizer)
    agree = agreement(ranks)
    with Attached(
        chosen, run, optimizers, policy=policy, followers=followers, staging=staging, agree=agree
    ) as attached:
        attached.begin()
        given = {"batches": batches, "loss_fn": loss_fn, "checkpoints": checkpoints}
        idle = without_effect(attached, init=init, fresh=fresh, **given)
        (outcome,) = attached.cross(dry_run=dry_run) or (Outcome(dry_run=dry_run, _undo=Undo(())),)
    outcome = replace(outcome, notes=(*outcome.notes, *idle))
    if probe is None or before is None:
        return outcome
    try:
        outcome = replace(outcome, probe=(before, probe_loss(model, *probe, finite=False)))
    except BaseException:
        if not dry_run:
            outcome.undo_()
        raise
    print(outcome.probe_line())
    return outcome


def probe_loss(model: nn.Module, batch: Any, loss_fn: LossFunction, *, finite: bool = True) -> float:
    """The loss on a batch in evaluation mode, leaving no trace; see `loss_on`."""
    with undisturbed(model), torch.no_grad():
        return float(loss_on(model, batch, loss_fn, finite=finite))


def _probe(given: object) -> tuple[Any, LossFunction]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise UserError(f"probe must be a pair (batch, loss_fn), got {type(given).__name__}")
    batch, loss_fn = given
    check_loss_fn(loss_fn)
    return batch, loss_fn
