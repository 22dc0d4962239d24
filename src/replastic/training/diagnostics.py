"""Measures of the network of a run, by their registered names; every draw they make has a seed of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from replastic import metrics
from replastic.data import generator
from replastic.metrics import Metric
from replastic.probes import activations, undisturbed
from replastic.streams import Phase
from replastic.training import supervised
from replastic.training.session import Session
from replastic.weights.entries import MatrixInfo
from replastic.weights.targets import select

Matrices = list[tuple[MatrixInfo, Tensor]]


def measure(session: Session, phase: Phase) -> dict[str, float]:
    """The protocol's measures of weights, features and loss, on the first samples of the phase's training data.

    Returns:
        ``metric/<name>`` for the whole network and ``metric/<name>/<layer>`` for each layer.
    """
    found: dict[str, float] = {}
    chosen = [(name, metrics.get(name)) for name in session.protocol.metrics]
    matrices = list(_matrices(session)) if any(m.on == "weight" for _, m in chosen) else []
    features = _features(session, phase) if any(m.on == "features" for _, m in chosen) else {}
    for name, metric in chosen:
        if metric.on == "weight":
            layers = {info.label: metric.compute(w, info) for info, w in matrices}
            found |= _named(name, metric, layers)
        elif metric.on == "features":
            found |= _named(name, metric, {layer: metric.compute(x) for layer, x in features.items()})
        elif metric.on == "loss":
            found[f"metric/{name}"] = _on_loss(session, phase, name, metric)
    return found


def snapshot(session: Session) -> Matrices:
    """Copies of the matrices that the protocol's recipe chooses, if a measure of changes is asked for."""
    if not any(metrics.get(name).on == "change" for name in session.protocol.metrics):
        return []
    return [(info, w.clone()) for info, w in _matrices(session)]


def measure_change(session: Session, old: Matrices) -> dict[str, float]:
    """The protocol's measures of what changed since the snapshot `old`."""
    found: dict[str, float] = {}
    new = list(_matrices(session)) if old else []
    for name in session.protocol.metrics:
        metric = metrics.get(name)
        if metric.on == "change":
            pairs = zip(new, old, strict=True)
            found |= _named(
                name, metric, {info.label: metric.compute(w, w_old, info) for (info, w), (_, w_old) in pairs}
            )
    return found


def _matrices(session: Session) -> Iterator[tuple[MatrixInfo, Tensor]]:
    store = session.run.store
    for target in select(store.entries(), session.run.recipe).targets:
        view = target.entry.view
        assert view is not None
        yield from zip(target.infos, view.split(store.read(target.entry.name)), strict=True)


@torch.no_grad()
def _features(session: Session, phase: Phase) -> dict[str, Tensor]:
    """Outputs of every activation function, (samples, units) each."""
    features: dict[str, Tensor] = {}
    with undisturbed(session.model), activations(session.model, features.__setitem__):
        session.model(phase.train.first(session.protocol.probe_samples).inputs)
    return features


def _on_loss(session: Session, phase: Phase, name: str, metric: Metric) -> float:
    draw = generator(session.seed, "metric", name, phase.index)
    batch = phase.train.first(session.protocol.probe_samples)
    batches = [(batch.inputs, batch.targets)]
    return float(metric.compute(session.model, batches, supervised.loss, generator=draw))


def _named(name: str, metric: Metric, layers: dict[str, Tensor]) -> dict[str, float]:
    """Records of one measure: its value in every layer, and their sum, mean or maximum over all matrices."""
    if not layers:
        return {}
    combine: Callable[[Tensor], Tensor] = getattr(torch, metric.total)
    values = {layer: torch.as_tensor(value, dtype=torch.float64).flatten() for layer, value in layers.items()}
    found = {f"metric/{name}": float(combine(torch.cat(list(values.values()))))}
    return found | {f"metric/{name}/{layer}": float(combine(value)) for layer, value in values.items()}
