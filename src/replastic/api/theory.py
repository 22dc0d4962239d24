"""The call that holds a network, live or in a file, against the FIRE paper's theorems: `theory`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from replastic import linalg, recipes
from replastic.api._calls import public
from replastic.api._chain import PLAIN, against, as_rows, gate_margin, links
from replastic.api._curvature import hessian_norm, output_side
from replastic.api._passed import Passed, pass_through
from replastic.api._readable import readable
from replastic.api._shared import LossFunction, as_model, as_recipe
from replastic.api._similarity import Old, is_old, of_models, of_weights
from replastic.api.promises import DELTA, HessianPromise, LayerPromise, OnBatch, TheoryReport
from replastic.errors import UserError
from replastic.interventions.attached import Progress
from replastic.probes import check_loss_fn
from replastic.weights.checkpoint import CheckpointStore
from replastic.weights.entries import MatrixInfo, WeightStore
from replastic.weights.module_store import ModuleStore
from replastic.weights.recipe import Recipe
from replastic.weights.targets import Selection


@public
def theory(
    source: nn.Module | str | Path,
    batch: Any = None,
    *,
    beta: float | None = None,
    gamma: float | None = None,
    old: Old | None = None,
    loss_fn: LossFunction | None = None,
    recipe: str | Path | Recipe = recipes.DEFAULT,
    target_modules: str | Sequence[str] | None = None,
    exclude_modules: Sequence[str] = (),
    include: Sequence[str] = (),
    layout: str | Sequence[str] = (),
    progress: Progress = iter,
) -> TheoryReport:
    """Say what the FIRE paper's theorems promise of a network, and where an assumption of theirs fails.

    Of each matrix: a lower bound on the rank of its features (theorem 3), an interval for the dormancy scores of its
    units (theorem 4) and whether that leaves no unit dormant (corollary 2). All three need sqrt(DfI) < 1 of the raw
    weight on the d_out x d_out Gram matrix, which a layer with d_out > d_in can never meet. With a batch the measured
    ranks and scores stand beside them. A convolution of several taps is no single matrix: nothing is promised of it.
    Of the network: a bound on the norm of the loss's Hessian (theorem 2, corrected; see `linalg.hessian_bound`), and
    corollary 1. With `loss_fn` the norm as measured stands beside them. With `old` there is a bound on how far the
    normalised feature covariances moved with the weights (theorem 1), beside how far they did.

    Args:
        source: A live module, or the path of a checkpoint.
        batch: Inputs of the module, a tensor (or the first of a tuple), or what `loss_fn` takes. Give more samples
            than the widest layer has units.
        beta: Bound on the norm of the Hessian of a sample's loss in the outputs, for theorem 2; with `loss_fn` the
            largest on the batch unless given.
        gamma: Bound on the norm of the gradient of a sample's loss in the outputs; as `beta`.
        old: The network before, for theorem 1: a module, a state dict, or the path of a checkpoint.
        loss_fn: ``loss_fn(model, batch)``, the mean over the samples of a loss of their outputs.
        recipe: Which weights; as in `apply_`, like the next three.
        target_modules: Patterns that replace the recipe's choice, or ``"all-linear"``.
        exclude_modules: Patterns that are left out.
        include: Roles taken although the recipe leaves them alone: ``head``, ``embedding``, ``router``, ``depthwise``,
            ``adapter``.
        layout: How weights are cut whose class is unknown, or is to be overruled, such as ``qkv:split=q+k+v``.
        progress: Wraps the layers on their way, such as `tqdm`.

    Raises:
        UserError: Wrong input, a checkpoint that cannot be read, or a pattern or name that matches nothing.

    Reference: FIRE (Han et al., ICLR 2026), section 3.2 and appendix A.1.
    """
    _check(source, batch, beta, gamma)
    _check_further(batch, old, loss_fn)
    store = CheckpointStore(source) if isinstance(source, str | Path) else ModuleStore(as_model(source))
    chosen = readable(
        store,
        as_recipe(recipe, layout),
        target_modules=target_modules,
        exclude_modules=exclude_modules,
        include=include,
    )
    layers = [
        _promise(info, w)
        for target in progress(chosen.targets)
        for info, w in target.matrices(store.read(target.entry.name))
    ]
    notes = store.notes if isinstance(store, CheckpointStore) else ()
    passed = None
    if isinstance(store, ModuleStore) and batch is not None and all(layer.finite for layer in layers):
        passed = pass_through(
            store.model, batch, {id(store.tensor(t.entry.name)): t.entry.name for t in chosen.targets}
        )
        layers = _beside(layers, store, chosen, passed)
        notes = passed.notes
    finite = all(layer.finite for layer in layers)
    if isinstance(store, ModuleStore) and loss_fn is not None and finite and beta is None:
        beta, gamma, notes = _on_outputs(store.model, batch, loss_fn, notes)
    hessian = _hessian(layers, store, chosen, passed, batch, beta, gamma)
    if isinstance(store, ModuleStore) and loss_fn is not None and finite:
        hessian = replace(hessian, measured=hessian_norm(store.model, batch, loss_fn))
    covariance = None
    if old is not None and finite:
        live = isinstance(store, ModuleStore) and batch is not None
        covariance = (
            of_models(store.model, old, batch)
            if live and isinstance(store, ModuleStore)
            else of_weights(store, chosen, old, _against(layers, store, chosen))
        )
    return TheoryReport(tuple(layers), hessian, chosen.skipped, as_recipe(recipe, layout).name, notes, covariance)


def _check_further(batch: Any, old: object, loss_fn: object) -> None:
    if loss_fn is not None:
        check_loss_fn(loss_fn)
        if batch is None:
            raise UserError("loss_fn is taken on a batch: pass batch=, what loss_fn takes")
    if old is not None and not is_old(old):
        raise UserError(f"old must be a module, a state dict or the path of a checkpoint, got {type(old).__name__}")


def _on_outputs(
    model: nn.Module, batch: Any, loss_fn: LossFunction, notes: tuple[str, ...]
) -> tuple[float | None, float | None, tuple[str, ...]]:
    """The beta and gamma of the batch; a note if they cannot be found."""
    try:
        return *output_side(model, batch, loss_fn), notes
    except UserError as error:
        return None, None, (*notes, f"theorem 2: {error}")


def _check(source: object, batch: Any, beta: object, gamma: object) -> None:
    if isinstance(source, str | Path) and batch is not None:
        raise UserError(
            "a batch needs a live model to run on, and theory got a path: leave the batch out, or load the model"
        )
    first = batch[0] if isinstance(batch, tuple | list) and batch else batch
    if batch is not None and not isinstance(first, Tensor):
        raise UserError(
            "batch must be the inputs of the model, a tensor, or a tuple or list that begins with one, "
            f"got {type(first).__name__}"
        )
    for name, value in (("beta", beta), ("gamma", gamma)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0):
            raise UserError(f"{name} must be a number of 0 or more, got {value!r}")
    if (beta is None) != (gamma is None) or (beta is not None and batch is None):
        raise UserError("theorem 2 needs beta, gamma and a batch: give all three, or neither beta nor gamma")


@torch.no_grad()
def _promise(info: MatrixInfo, w: Tensor) -> LayerPromise:
    with torch.autocast(w.device.type, enabled=False):
        deviations = linalg.dfi(w) if bool(torch.isfinite(w).all()) else torch.full((1,), torch.nan)
        worst = int(deviations.argmax())
        layer = LayerPromise(
            info.weight, info.block, info.kind, info.batch, info.taps, info.d_out, info.d_in, float(deviations[worst])
        )
        if layer.reason:
            return layer
        return replace(
            layer,
            srank_at_least=linalg.srank_bound(w[worst], delta=DELTA),
            scores=linalg.dormancy_interval(w[worst]),
        )


@torch.no_grad()
def _beside(
    layers: Sequence[LayerPromise], store: WeightStore, chosen: Selection, passed: Passed
) -> list[LayerPromise]:
    """The same layers with what was seen of them in the pass."""
    matrices = (m for t in chosen.targets for m in t.matrices(store.read(t.entry.name)))
    return [
        replace(layer, on_batch=_on_batch(layer, w, passed)) for layer, (_, w) in zip(layers, matrices, strict=True)
    ]


def _on_batch(layer: LayerPromise, w: Tensor, passed: Passed) -> OnBatch | None:
    scores = passed.scores.get(layer.weight) if (layer.batch == 1 or layer.taps > 1) and not layer.block else None
    seen = passed.inputs.get(layer.weight)
    if seen is None or seen.factor.shape[-1] != layer.d_in:
        return None if scores is None else OnBatch(scores=scores)
    with torch.autocast(w.device.type, enabled=False):
        z = seen.factor
        promised = None if layer.reason else min(linalg.srank_bound(one, z, delta=DELTA) for one in w)
        measured = min(int(linalg.srank(z @ one.double().mT, DELTA)) for one in w)
    return OnBatch(seen.samples, promised, measured, scores)


def _hessian(
    layers: Sequence[LayerPromise],
    store: WeightStore,
    chosen: Selection,
    passed: Passed | None,
    batch: Any,
    beta: float | None,
    gamma: float | None,
) -> HessianPromise:
    """Theorem 2 for the whole network, or what stands against it."""
    model = store.model if isinstance(store, ModuleStore) else None
    obstacles = _against(layers, store, chosen)
    relu = False
    if model is not None:
        chain, relu = _chain(model)
        obstacles += [chain] if chain else []
    first = None if passed is None else passed.first
    if first is not None and first.axes != 2:
        obstacles.append(f"the first layer's inputs have {first.axes} axes, and it speaks of samples by features")
    if obstacles:
        return HessianPromise(tuple(obstacles))
    deviations = [layer.dfi for layer in layers]
    single, pairs = linalg.hessian_factors(deviations)
    found = HessianPromise((), single, pairs, seen=model is not None)
    if first is None:
        return found
    energy = first.mean_square if relu else first.largest
    gates = gate_margin(links(model), as_rows(model, batch)) if relu and model is not None else None
    found = replace(found, energy=energy, whitening=first.largest, gates=gates)
    if beta is None or gamma is None:
        return found
    bound = linalg.hessian_bound(deviations, beta=beta, gamma=gamma, energy=energy)
    return replace(found, bound=bound, beta=beta, gamma=gamma)


def _against(layers: Sequence[LayerPromise], store: WeightStore, chosen: Selection) -> list[str]:
    """Theorem 2 checked on the weights themselves."""
    names = {t.entry.name for t in chosen.targets}
    rest = [e for e in store.entries() if e.name not in names and e.role != "buffer" and not e.derived]
    found: Mapping[str, list[str]] = {
        "the network has biases": [e.name for e in rest if e.role == "bias"],
        "it has norms": [e.name for e in rest if e.role == "norm"],
        "it has weights that were not looked at": [e.name for e in rest if e.role not in ("bias", "norm")],
        "not every weight is one matrix": [x.label for x in layers if x.batch > 1 or x.block or x.kind != "linear"],
        "numbers are not finite": [x.label for x in layers if not x.finite],
    }
    return [f"{what} ({where[0]}{' and others' if len(where) > 1 else ''})" for what, where in found.items() if where]


def _chain(model: nn.Module) -> tuple[str, bool]:
    """Why a model is not seen to be a chain of Linears with ReLU or nothing between them; and whether it has a ReLU."""
    odd = against(model, PLAIN)
    return odd, not odd and any(isinstance(m, nn.ReLU) for m in model.modules())
