"""Both sides of theorem 1: how far the features of two networks are apart, by the change of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from replastic import linalg
from replastic.api import _chain
from replastic.api._chain import Link
from replastic.api.promises import CovariancePromise, Gap
from replastic.errors import UserError
from replastic.weights.checkpoint import CheckpointStore
from replastic.weights.entries import WeightStore
from replastic.weights.targets import Selection

Old = nn.Module | Mapping[str, Tensor] | str | Path
"""The network before: a module, a state dict, or a checkpoint."""


def of_models(model: nn.Module, old: Old, batch: Any) -> CovariancePromise:
    """Theorem 1 for every layer of a live model, on a batch."""
    reason = _chain.against(model, _chain.ANY)
    if reason:
        return CovariancePromise((reason,))
    before = _loaded(model, old)
    new, past = _chain.links(model), _chain.links(before)
    if not all(_chain.is_run_so(one, chain, batch) for one, chain in ((model, new), (before, past))):
        return CovariancePromise(("its layers do not run in the order in which they are listed",))
    obstacles = _obstacles(new)
    z = _chain.as_rows(model, batch)
    norms, sfe = _norms(new, past)
    inputs = float(torch.linalg.matrix_norm(z.double()))
    gaps = []
    for index, (h, h_old) in enumerate(zip(_chain.features(new, z), _chain.features(past, z), strict=True), start=1):
        least = min(float(h.norm()), float(h_old.norm()))
        bound, corollary = linalg.covariance_gap_bound(
            norms[:index], [link.steepness for link in new[:index]], sfe=sfe, inputs=inputs, least=least
        )
        measured = linalg.covariance_gap(h, h_old) if least > 0 else None
        known = not obstacles and math.isfinite(bound)
        gaps.append(
            Gap(
                new[index - 1].name,
                bound if known else None,
                corollary if known and math.isfinite(corollary) else None,
                measured,
            )
        )
    return CovariancePromise(obstacles, sfe=sfe, gaps=tuple(gaps))


def of_weights(store: WeightStore, chosen: Selection, old: Old, obstacles: Sequence[str]) -> CovariancePromise:
    """Theorem 1 for the outputs of a network of which there are only the weights: all but ||Z|| / m."""
    if isinstance(old, str | Path):
        before: Mapping[str, Tensor] | WeightStore = CheckpointStore(old)
    else:
        before = old.state_dict() if isinstance(old, nn.Module) else old
    pairs = []
    for target in chosen.targets:
        name = target.entry.name
        there = _read(before, name)
        now = store.read(name)
        if there.shape != now.shape:
            raise UserError(f"{name} has shape {tuple(now.shape)} now and {tuple(there.shape)} in old")
        if now.ndim == 2:
            pairs.append((now.double(), there.double()))
    sfe = sum(float(linalg.sfe(now, there)) for now, there in pairs)
    if obstacles or not pairs:
        return CovariancePromise(tuple(obstacles) or ("no matrix was chosen",), sfe=sfe)
    norms = [(_largest(now), _largest(there)) for now, there in pairs]
    factor, _ = linalg.covariance_gap_bound(norms, [1.0] * len(norms), sfe=sfe, inputs=1.0, least=1.0)
    return CovariancePromise((), sfe=sfe, factor=factor)


def _loaded(model: nn.Module, old: Old) -> nn.Module:
    """The network before, as a model."""
    if isinstance(old, nn.Module):
        return old
    before = copy.deepcopy(model)
    own = before.state_dict()
    table: Mapping[str, Tensor] | WeightStore = CheckpointStore(old) if isinstance(old, str | Path) else old
    with torch.no_grad():
        for name, value in own.items():
            there = _read(table, name)
            if there.shape != value.shape:
                raise UserError(f"{name} has shape {tuple(value.shape)} now and {tuple(there.shape)} in old")
            value.copy_(there)
    return before


def _read(table: Mapping[str, Tensor] | WeightStore, name: str) -> Tensor:
    names = list(table) if isinstance(table, Mapping) else [entry.name for entry in table.entries()]
    if name not in names:
        raise UserError(f"old lacks {name}: it must hold the same network as it was before")
    return table[name] if isinstance(table, Mapping) else table.read(name)


def _obstacles(chain: Sequence[Link]) -> tuple[str, ...]:
    found = []
    biased = [link.name for link in chain if link.linear.bias is not None and bool(link.linear.bias.any())]
    if biased:
        found.append(f"the network has biases ({biased[0]} has one{' and others' if len(biased) > 1 else ''})")
    lifted = [link for link in chain if not link.keeps_zero]
    if lifted:
        kind = next(type(m).__name__ for m in lifted[0].after if bool(m(torch.zeros(1)) != 0))
        found.append(f"{kind} does not map 0 to 0, which the proof needs")
    return tuple(found)


def _norms(new: Sequence[Link], past: Sequence[Link]) -> tuple[list[tuple[float, float]], float]:
    """Spectral norms of the two weights of each layer, and the SFE of the network."""
    pairs = [
        (a.linear.weight.detach().double(), b.linear.weight.detach().double()) for a, b in zip(new, past, strict=True)
    ]
    return [(_largest(a), _largest(b)) for a, b in pairs], sum(float(linalg.sfe(a, b)) for a, b in pairs)


def _largest(w: Tensor) -> float:
    return float(torch.linalg.matrix_norm(w, ord=2))


def is_old(value: object) -> bool:
    """Whether it can be a network before."""
    return isinstance(value, nn.Module | Mapping | str | Path)
