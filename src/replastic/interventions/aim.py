"""Which weights a method is meant for: what the recipe, the caller and the method's own option `targets` say."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from replastic.errors import UserError
from replastic.interventions.method import Scope
from replastic.interventions.run import Run
from replastic.weights.change import Skipped
from replastic.weights.recipe import Target
from replastic.weights.targets import select


def choose(scope: Scope, run: Run) -> tuple[tuple[Target, ...], tuple[Skipped, ...]]:
    """The tensors that a method of that scope is meant for in a run, and those left alone.

    Raises:
        UserError: A pattern or a role matches nothing, or nothing is left to touch.
    """
    selection = select(
        run.store.entries(),
        run.recipe,
        target_modules=run.target_modules,
        exclude_modules=run.exclude_modules,
        include=run.include,
        scope="parameters" if scope == "layers" else scope,
    )
    if run.among is None:
        return selection.targets, selection.skipped
    kept = [(target, _among(target, run.among)) for target in selection.targets]
    left = tuple(Skipped(target.entry.name, NOT_AMONG) for target, rest in kept if rest is None)
    return tuple(rest for _, rest in kept if rest is not None), (*selection.skipped, *left)


NOT_AMONG = "has not collapsed (only_collapsed)"
"""Why a chosen weight is left alone where a run is restricted to some (`Run.among`)."""


def _among(target: Target, among: Collection[tuple[str, str]]) -> Target | None:
    """The target with those of its matrices that are to be touched; None without any."""
    if not target.infos:  # chosen as a whole tensor
        return target if any(weight == target.entry.name for weight, _ in among) else None
    infos = tuple(info for info in target.infos if (info.weight, info.block) in among)
    return replace(target, infos=infos) if infos else None


TARGETS_HELP = "patterns joined by | that replace the recipe's choice of weights, as in attention.q|attention.k"
"""Of the option `targets`, which several methods have."""


def check_targets(name: str, targets: str) -> None:
    """Refuse an option `targets` with an empty pattern; the empty text is none.

    Raises:
        UserError: There is one.
    """
    if targets and not all(_split(targets)):
        raise UserError(f"{name}: targets must be patterns joined by |, got {targets!r}")


def aimed(name: str, targets: str, run: Run) -> Run:
    """The run with the patterns of a method's option `targets` as the weights to touch, if there are any.

    Raises:
        UserError: The run names its targets already.
    """
    if not targets:
        return run
    if run.target_modules is not None:
        raise UserError(f"{name}: give target_modules or the option targets, not both")
    return replace(run, target_modules=_split(targets))


def aimed_matrices(name: str, targets: str, run: Run) -> tuple[Target, ...]:
    """The weights that a method's option `targets` chooses, or else the recipe, seen as matrices.

    Raises:
        UserError: As `aimed` and `choose`.
    """
    return choose("matrices", aimed(name, targets, run))[0]


def last_layers(name: str, run: Run, count: int = 1) -> list[str]:
    """Names of the tensors of the last `count` layers of a network: its output layer, and those before it.

    Args:
        name: Of the method, for messages.
        run: The run.
        count: Layers, 1 or more. Heads beside each other, as of several tasks, count as one.

    Raises:
        UserError: There is no output layer, or there are fewer layers.
    """
    entries = run.store.entries()
    heads = {_layer(e.name) for e in entries if e.role == "head"}
    if not heads:
        raise UserError(f"{name} found no output layer; say which layers with target_modules")
    hidden = list(dict.fromkeys(_layer(e.name) for e in entries if e.role == "matrix"))
    hidden = [layer for layer in hidden if layer not in heads]
    if count - 1 > len(hidden):
        raise UserError(f"{name}: last must be at most {len(hidden) + 1}, the layers of this network, got {count}")
    chosen = heads | set(hidden[len(hidden) + 1 - count :])
    return [e.name for e in entries if _layer(e.name) in chosen and e.role in ("head", "matrix", "bias")]


def _layer(name: str) -> str:
    """The module of a tensor."""
    return name.rpartition(".")[0]


def _split(targets: str) -> tuple[str, ...]:
    return tuple(pattern.strip() for pattern in targets.split("|"))
