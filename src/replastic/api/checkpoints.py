"""The calls for checkpoints on disk: `inspect` and `rewrite`, the same flow as for a live model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from replastic import methods, recipes
from replastic.api._calls import OptionValue, public
from replastic.api._shared import as_method, as_recipe, boundary_method, check_flags, check_seed, without_effect
from replastic.api.diagnosis import WeightReport, weight_report
from replastic.errors import UserError
from replastic.interventions.attached import Attached, Progress
from replastic.weights.checkpoint import CheckpointStore, LazyWeights
from replastic.weights.outcome import Outcome
from replastic.weights.recipe import Recipe
from replastic.weights.trainer_files import OptimizerFiles


@public
def inspect(
    path: str | Path,
    *,
    recipe: str | Path | Recipe = recipes.DEFAULT,
    target_modules: str | Sequence[str] | None = None,
    exclude_modules: Sequence[str] = (),
    include: Sequence[str] = (),
    layout: str | Sequence[str] = (),
    progress: Progress = iter,
) -> WeightReport:
    """Measure the weights of a checkpoint and say what they look like; changes nothing.

    The verdict calls a layer collapsed if its effective rank (exp of the entropy of its singular values, Roy and
    Vetterli 2007, mean over the taps or heads) is below a quarter of min(d_out, d_in). Random matrices have 0.7 of it
    or more. Layers with fewer than 8 directions are measured but not judged. The thresholds are ours.

    Args:
        path: A safetensors file, a folder with one or with shards and their index, or a file of `torch.save`.
        recipe: Which weights, and how they are seen; a name (``replastic list recipes``), a TOML file, or a `Recipe`.
        target_modules: Patterns that replace the recipe's choice, or ``"all-linear"``.
        exclude_modules: Patterns that are left out.
        include: Roles taken although the recipe leaves them alone: ``head``, ``embedding``, ``router``, ``depthwise``,
            ``adapter``.
        layout: How weights are cut whose class is unknown, or is to be overruled, such as ``qkv:split=q+k+v``.
        progress: Wraps the layers on their way, such as `tqdm`.

    Raises:
        UserError: The checkpoint cannot be read (`CheckpointError`), or a pattern or name matches nothing.
    """
    store = CheckpointStore(path)
    return weight_report(
        store,
        as_recipe(recipe, layout),
        target_modules=target_modules,
        exclude_modules=exclude_modules,
        include=include,
        notes=store.notes,
        progress=progress,
    )


@public
def rewrite(
    source: str | Path,
    destination: str | Path | None = None,
    method: str | methods.Method = "fire",
    *,
    recipe: str | Path | Recipe = recipes.DEFAULT,
    target_modules: str | Sequence[str] | None = None,
    exclude_modules: Sequence[str] = (),
    include: Sequence[str] = (),
    layout: str | Sequence[str] = (),
    only_collapsed: bool = False,
    init: str | Path | None = None,
    seed: int = 0,
    dry_run: bool = False,
    overwrite: bool = False,
    optimizer: OptimizerFiles = "drop",
    progress: Progress = iter,
    **options: OptionValue,
) -> Outcome:
    """Write a copy of a checkpoint whose weights a method has rewritten; the input is never altered.

    The copy appears whole or not at all, in the dtypes, order and metadata of the input, with every other file of the
    folder beside it. Memory holds the tensor that is solved, the next one, which is read meanwhile, and the last one,
    which is written. A call that was killed, or stopped by Ctrl-C, goes on at its tensor when it is made again within a
    day.

    Args:
        source: A safetensors file, a folder with one or with shards and their index, or a file of `torch.save`.
        destination: The new file or folder; None for a dry run.
        method: Name (``replastic list methods``), a spec such as ``"fire:solver=fast"``, or a method object.
        recipe: Which weights; a name (``replastic list recipes``), a TOML file, or a `Recipe`.
        target_modules: Patterns that replace the recipe's choice, or ``"all-linear"``.
        exclude_modules: Patterns that are left alone whatever else says.
        include: Roles taken although the recipe leaves them alone: ``head``, ``embedding``, ``router``, ``depthwise``,
            ``adapter``.
        layout: How weights are cut whose class is unknown, or is to be overruled, such as ``qkv:split=q+k+v``.
        only_collapsed: Touch only layers that `inspect` calls collapsed. Without any, the copy has the weights of the
            input, and a note says so.
        init: The checkpoint from before training, for methods that need the initial weights.
        seed: Seed of everything the method draws.
        dry_run: Compute and report all, write nothing.
        overwrite: Replace an output that is there; other files in its folder are a reason to refuse.
        optimizer: What becomes of the optimizer's state that a trainer saved beside the weights (``optimizer.pt``) or
            around them in one file: ``drop`` empties it in the copy, as `fire_` drops the moments of rewritten weights;
            ``keep`` keeps it. The outcome says which.
        progress: Wraps the new weights on their way, such as `tqdm`.
        options: Hyperparameters of the method, when it was given by name.

    Raises:
        UserError: Wrong input, or a method that needs more than files can give (a live model, data, a loss).
    """
    chosen = boundary_method(as_method(method, options, rewrite))
    check_flags(dry_run=dry_run, overwrite=overwrite, only_collapsed=only_collapsed)
    if not callable(progress):
        raise UserError(f"progress must be a function that wraps an iterable, such as tqdm, got {progress!r}")
    if destination is None and not dry_run:
        raise UserError("rewrite needs a destination: the input is never changed in place (or ask for a dry run)")
    if optimizer not in ("drop", "keep"):
        raise UserError(f"optimizer must be 'drop' or 'keep' here, where the weights are files, got {optimizer!r}")
    store = CheckpointStore(source, destination=destination, overwrite=overwrite, optimizer=optimizer)
    run = methods.Run(
        store=store,
        recipe=as_recipe(recipe, layout),
        target_modules=target_modules,
        exclude_modules=exclude_modules,
        include=include,
        init=None if init is None else LazyWeights(CheckpointStore(init)),
        seed=check_seed(seed),
        phase=-1,
    )
    notes: list[str] = []
    if only_collapsed:
        run.among = _collapsed(chosen, run, progress)
        notes += [] if run.among else ["no layer has collapsed: nothing to rewrite, the weights stay as they are"]
    with Attached(chosen, run) as attached:
        attached.begin()
        notes += without_effect(attached, init=init)
        (outcome,) = attached.cross(dry_run=dry_run, progress=progress)
    return replace(outcome, optimizer=store.optimizer, notes=(*store.notes, *notes, *outcome.notes))


def _collapsed(method: methods.Method, run: methods.Run, progress: Progress) -> frozenset[tuple[str, str]]:
    """Weight and block of the layers that have collapsed, among those the method is meant for."""
    if not isinstance(method, methods.WeightMethod):
        raise UserError(f"only_collapsed needs a method that rewrites weights one by one; {method.name} does not")
    aim = method.narrowed(run)
    report = weight_report(
        run.store,
        run.recipe,
        target_modules=aim.target_modules,
        exclude_modules=aim.exclude_modules,
        include=aim.include,
        progress=progress,
    )
    return frozenset((layer.weight, layer.block) for layer in report.collapsed)
