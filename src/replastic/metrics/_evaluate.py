"""From names of measures to records: measures are taken of matrices, features or the loss, by layer and in all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.linalg.device import in_working_precision
from replastic.metrics._metric import Metric, by_name
from replastic.probes import activations, check_features, forward_on, loss_on, undisturbed
from replastic.records import Measures, key
from replastic.weights.entries import MatrixInfo, WeightStore
from replastic.weights.recipe import Recipe, Target
from replastic.weights.shards import gathered
from replastic.weights.targets import select


def measure(
    names: Sequence[str],
    *,
    store: WeightStore,
    recipe: Recipe,
    model: nn.Module | None = None,
    batch: Any = None,
    loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
    old: Mapping[str, Tensor] | None = None,
    generator: torch.Generator | None = None,
) -> Measures:
    """Evaluate measures of a network, leaving no trace in it.

    Args:
        names: Names of measures, or specs such as ``plasticity:steps=50`` of those that have options.
        store: The weights.
        recipe: Chooses the weights that measures of weights and of their change are taken of.
        model: The live module, for measures of features and of the loss. They run it in evaluation mode.
        batch: The argument of `loss_fn`. Without `loss_fn`, measures of features take any samples.
        loss_fn: Mean loss of the model on a batch.
        old: Weights by name to compare with, for measures of change; see `snapshot`.
        generator: Source of the draws of measures of the loss; on the CPU. Seeded with 0 unless given. Each measure
            begins at its present state, so that no value depends on the other measures; it stays as it is.

    Returns:
        ``metric/<name>`` for the network and ``metric/<name>/<layer>`` for each layer. The value of several matrices,
        units or layers is the measure's `total` over all of them. A vector measure gives a list of numbers for each
        layer and none for the network; a vector of the loss is ``metric/<name>``.

    Raises:
        UserError: A name is unknown or given twice, or an argument that a measure needs is missing.
    """
    chosen = by_name(names)
    for name, metric in chosen.items():
        _require(name, metric, model, batch, loss_fn, old)
    layers: dict[str, dict[str, Tensor]] = {name: {} for name in chosen}
    shares: dict[str, dict[str, Tensor]] = {name: {} for name in chosen}
    if any(m.on in ("weight", "change") for m in chosen.values()):
        for info, w, before in _matrices(store, recipe, old):
            with in_working_precision(w.device):
                given = {"weight": (w, info), "change": (w, before, info)}
                for name, metric in chosen.items():
                    if metric.on in given:
                        layers[name][info.label] = metric.compute(*given[metric.on])
                        if metric.share is not None:
                            shares[name][info.label] = metric.share(*given[metric.on])
    features = {name: metric for name, metric in chosen.items() if metric.on == "features"}
    if features:
        assert model is not None
        _watch(model, batch, loss_fn, features, layers)
    for name, value in _of_loss(chosen, model, batch, loss_fn, generator):
        layers[name] |= value if isinstance(value, Mapping) else {"": value}
    found: Measures = {}
    for name, metric in chosen.items():
        if metric.vector:
            found |= {key(name, layer): _vector(metric, value) for layer, value in layers[name].items()}
            continue
        found |= _records(name, metric, layers[name], shares[name])
    return found


def _of_loss(
    chosen: Mapping[str, Metric],
    model: nn.Module | None,
    batch: Any,
    loss_fn: Callable[[nn.Module, Any], Tensor] | None,
    generator: torch.Generator | None,
) -> Iterator[tuple[str, Any]]:
    """Names and values of the measures of the loss; what several of them share is prepared once."""
    prepared: dict[Callable[..., Any], Any] = {}
    for name, metric in chosen.items():
        if metric.on != "loss":
            continue
        draw = torch.Generator().manual_seed(0)
        if generator is not None:
            draw.set_state(generator.get_state())
        if metric.prepare is None:
            yield name, metric.compute(model, [batch], loss_fn, generator=draw)
            continue
        if metric.prepare not in prepared:
            prepared[metric.prepare] = metric.prepare(model, [batch], loss_fn, generator=draw)
        yield name, metric.compute(prepared[metric.prepare])


def snapshot(store: WeightStore, recipe: Recipe) -> dict[str, Tensor]:
    """Copies, by name, of the weights that measures of change compare with; of sharded ones whole copies."""
    targets = _measured(store, recipe)
    return {t.entry.name: gathered(store.read(t.entry.name)).clone() for t in targets}


def _measured(store: WeightStore, recipe: Recipe) -> Sequence[Target]:
    """The weights that a recipe chooses; where all of these are frozen, as beside adapters, as if they were not."""
    entries = store.entries()
    try:
        return select(entries, recipe).targets
    except UserError:
        return select([replace(entry, trainable=True) for entry in entries], recipe).targets


def _matrices(
    store: WeightStore, recipe: Recipe, old: Mapping[str, Tensor] | None
) -> Iterator[tuple[MatrixInfo, Tensor, Tensor]]:
    """Each batch of matrices with its old values, or with itself if there are no old values."""
    for target in _measured(store, recipe):
        name = target.entry.name
        new = gathered(store.read(name))
        if old is not None and name not in old:
            raise UserError(f"{name} is missing from the old weights to compare with")
        before = new if old is None else old[name]
        for (info, w), (_, w_old) in zip(target.matrices(new), target.matrices(before), strict=True):
            yield info, w, w_old


def _watch(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[[nn.Module, Any], Tensor] | None,
    features: Mapping[str, Metric],
    layers: Mapping[str, dict[str, Tensor]],
) -> None:
    """Run one forward pass and take every measure of features of each layer's output."""

    def visit(layer: str, output: Tensor) -> None:
        for name, metric in features.items():
            layers[name][layer] = metric.compute(output)

    watch_features(model, batch, loss_fn, visit)


def watch_features(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[[nn.Module, Any], Tensor] | None,
    visit: Callable[[str, Tensor], None],
) -> None:
    """Run one forward pass in evaluation mode, without a trace, and call `visit(layer, features)` for each layer.

    Args:
        model: The live module.
        batch: The argument of `loss_fn`, or, without one, inputs of the model (the first of a tuple).
        loss_fn: Mean loss of the model on a batch.
        visit: Gets the layer's name and its outputs (samples, units), checked to be finite; outside of autocast.

    Raises:
        UserError: Features are not finite, or the batch is empty.
    """

    def checked(layer: str, output: Tensor) -> None:
        check_features(f"the output of {layer}", output)
        with in_working_precision(output.device):
            visit(layer, output)

    with undisturbed(model), torch.no_grad(), activations(model, checked):
        if loss_fn is not None:
            loss_on(model, batch, loss_fn, finite=False)
            return
        try:
            forward_on(model, batch)
        except Exception as error:
            error.add_note(_OTHER_CALL)
            raise


_OTHER_CALL = "if the model is to be called in another way, pass loss_fn=<function (model, batch) -> mean loss>"


def _require(name: str, metric: Metric, model: object, batch: object, loss_fn: object, old: object) -> None:
    needed: dict[str, dict[str, object]] = {
        "weight": {},
        "change": {"old": old},
        "features": {"model": model, "batch": batch},
        "loss": {"model": model, "batch": batch, "loss_fn": loss_fn},
    }
    missing = [argument for argument, value in needed[metric.on].items() if value is None]
    if missing:
        raise UserError(f"the measure {name} needs {', '.join(missing)}: pass {missing[0]}=")


def _records(name: str, metric: Metric, layers: Mapping[str, Tensor], shares: Mapping[str, Tensor]) -> dict[str, float]:
    if not layers:
        return {}
    values = {layer: torch.as_tensor(value, dtype=torch.float64).flatten().cpu() for layer, value in layers.items()}
    weights = {layer: shares[layer].double().flatten().cpu() if shares else None for layer in layers}
    together = torch.cat([weight for weight in weights.values() if weight is not None]) if shares else None
    found = {key(name): _total(metric, torch.cat(list(values.values())), together)}
    return found | {key(name, layer): _total(metric, value, weights[layer]) for layer, value in values.items() if layer}


def _vector(metric: Metric, values: Tensor) -> list[float]:
    """One vector of several: (k,), or (batch, k), entry by entry."""
    rows = torch.as_tensor(values, dtype=torch.float64).cpu()
    vector: list[float] = _REDUCE[metric.total](rows.reshape(-1, rows.shape[-1])).tolist()
    return vector


def _total(metric: Metric, values: Tensor, weights: Tensor | None) -> float:
    """One value of many: the measure's total, or the weighted mean if there are weights that are not all 0."""
    if weights is not None and bool(weights.any()):
        counts = weights > 0
        return float((values[counts] * weights[counts]).sum() / weights.sum())
    return float(_REDUCE[metric.total](values))


_REDUCE: dict[str, Callable[[Tensor], Tensor]] = {
    "sum": partial(torch.sum, dim=0),
    "mean": partial(torch.mean, dim=0),
    "max": partial(torch.amax, dim=0),
    "norm": partial(torch.linalg.vector_norm, dim=0),
}
