"""The call for a training loop of your own: `during`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from replastic import methods, recipes
from replastic.api._calls import OptionValue, public
from replastic.api._shared import Checkpoints, LossFunction, agreement, as_method, as_recipe, live_run
from replastic.api._watching import watching
from replastic.errors import UserError
from replastic.interventions.attached import Attached
from replastic.triggers import Trigger
from replastic.weights.followers import Followers
from replastic.weights.optimizer_state import Optimizers, Policy, by_name
from replastic.weights.recipe import Recipe


@public
def during(
    method: str | methods.Method,
    model: nn.Module,
    optimizer: Optimizers,
    *,
    init: Mapping[str, Tensor] | None = None,
    fresh: Callable[[int], Mapping[str, Tensor]] | None = None,
    batches: Callable[[], Iterable[Any]] | Iterable[Any] | None = None,
    loss_fn: LossFunction | None = None,
    checkpoints: Checkpoints | None = None,
    recipe: str | Path | Recipe = recipes.DEFAULT,
    target_modules: str | Sequence[str] | None = None,
    exclude_modules: Sequence[str] = (),
    include: Sequence[str] = (),
    layout: str | Sequence[str] = (),
    policy: Policy = "reset_touched",
    followers: Followers | None = None,
    seed: int = 0,
    ranks: Literal["same", "independent"] = "same",
    trigger: str | Trigger | None = None,
    **options: OptionValue,
) -> Attached:
    """Put a method to work in a training loop of your own; every registered method can.

    ::

        with replastic.during("redo", model, optimizer, batches=loader, loss_fn=loss_fn) as method:
            for batch in loader:
                penalty = method.penalty()
                loss = loss_fn(model, batch) if penalty is None else loss_fn(model, batch) + penalty
                method.optimizer.zero_grad()
                loss.backward()
                method.optimizer.step()
                method.after_update()

    A method that needs the loss twice (``sam``) takes it as a function, see `Attached.backward`.

    Call `method.cross()` between two phases. Step `method.optimizer`: it is the one that was given, unless the method
    brings its own (``muon``, ``adamo``). Make schedulers and gradient scalers for that one. To resume, save
    `method.state_dict()` beside model and optimizer; load it first, as a method may add modules.

    With `trigger` you need not know when a phase ends: the method acts as between two phases whenever the trigger finds
    that it is time. Give it the loss: `method.after_update(loss=loss)`. `method.acted` lists when that was, and why.

    Args:
        method: Name (``replastic list methods``), a spec such as ``"redo:every=100"``, several joined by ``+``, or a
            method object.
        model: The module that is trained.
        optimizer: The optimizer that trains it; several as a list or as a table by name (see `Attached.optimizers`).
        init: State dict of the model at initialisation, a copy, for methods that need it.
        fresh: Draws a new initial state dict from a seed; by default each module's `reset_parameters` does.
        batches: Data of the phase under way (an iterable, or a function that returns one), for methods that need it.
        loss_fn: ``loss_fn(model, batch)``, for methods that need it.
        checkpoints: State dicts of the model from on the way, the oldest first, for methods that go back to one; a
            `methods.Checkpoint` also says of which update it is, whether it is the best, and is read when needed.
        recipe: Which weights; a name (``replastic list recipes``), a TOML file, or a `Recipe`.
        target_modules: Patterns that replace the recipe's choice, or ``"all-linear"``.
        exclude_modules: Patterns that are left alone whatever else says.
        include: Roles taken although the recipe leaves them alone: ``head``, ``embedding``, ``router``, ``depthwise``,
            ``adapter``.
        layout: How weights are cut whose class is unknown, or is to be overruled, such as ``qkv:split=q+k+v``.
        policy: What becomes of the optimizer's state between phases: ``reset_touched`` drops that of rewritten
            parameters, ``reset_all`` all of it, ``keep`` none.
        followers: Copies that must follow (target networks, moving averages, fp32 masters), by a name for messages.
        seed: Seed of everything the method draws.
        ranks: In a group of torch.distributed: ``same`` sees to it, at every write, that every process writes the same
            into the same weights, and refuses otherwise; ``independent`` is for processes with a model of their own.
        trigger: Decides when the method acts: a name (``replastic list triggers``), a spec such as
            ``"plateau:patience=3"``, or an object. Its start, with which some triggers compare, is this call.
        options: Hyperparameters of the method, when it was given by name.

    Returns:
        The method at work, for a `with` block that removes its hooks.

    Raises:
        UserError: Wrong input; the model is unchanged.
    """
    chosen = as_method(method, options, during, several=True)
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
        phase=0,
    )
    optimizers = by_name(optimizer)
    if not optimizers:
        raise UserError("during needs the optimizer that trains the model: pass it, or use apply_ between phases")
    agree = agreement(ranks)
    if trigger is not None and not chosen.acts_between_phases:
        raise UserError(f"{methods.spec_of(chosen)} does not act between phases: a trigger has no effect on it")
    watch = None if trigger is None else watching(trigger, run, alike=agree == "always")
    attached = Attached(chosen, run, optimizers, policy=policy, followers=followers, agree=agree, watch=watch)
    try:
        attached.begin()
    except BaseException:
        attached.close()
        raise
    return attached
