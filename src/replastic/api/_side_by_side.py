"""The question itself, measured: does a copy of the network still learn as a fresh one of the same kind does?"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from inspect import Parameter, signature
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from replastic.api._shared import LossFunction
from replastic.api.trial import Course, Trial
from replastic.errors import UserError
from replastic.probes.random_labels import with_random_labels
from replastic.probes.trainee import MakeOptimizer, Trainee, copied, unwrapped
from replastic.seeds import derive, drawing_from
from replastic.weights.redraw import redraw

LEARNING_RATE = 1e-3
"""Of Adam, where nobody gives an optimizer."""
SCORED = 4
"""Batches on which the loss is measured before and after."""


def run_trial(
    model: nn.Module,
    data: Iterable[Any],
    loss_fn: LossFunction | None,
    *,
    steps: int,
    optimizer: Optimizer | Callable[..., Optimizer] | None = None,
    learning_rate: float | None = None,
    fresh: Callable[[int], Mapping[str, Tensor]] | None = None,
    seed: int = 0,
) -> Trial:
    """Train a copy of the model and a fresh network on the data as it is, and on its first batch with random labels.

    The estimate of the time is printed to standard error before training starts.

    Args:
        model: The model; it, its gradients and the random generators stay as they are.
        data: One batch in a list, or a loader: read again from its start for each of the networks.
        loss_fn: ``loss_fn(model, batch)``; None for the cross-entropy of a pair of inputs and whole-number labels.
        steps: Optimizer steps of each network.
        optimizer: An optimizer whose kind and settings are taken over, a class, or a function of the parameters.
        learning_rate: Replaces the optimizer's own.
        fresh: Draws a new initial state dict from a seed; by default each module's `reset_parameters` does.
        seed: Seed of the draw, the labels and what is drawn in training.

    Raises:
        UserError: The model cannot be copied or drawn anew, or the loss cannot be computed.
    """
    if torch.is_inference_mode_enabled():
        raise UserError("a trial trains a copy, which torch.inference_mode() forbids: make this call outside of it")
    make, named = _optimizer(optimizer, learning_rate)
    plain = unwrapped(model)
    with _as_before(data), drawing_from(seed, plain), torch.enable_grad():
        first = list(islice(data, SCORED))
        loss = loss_fn or _cross_entropy(first[0])
        timed = Trainee(copied(plain), make, loss)
        drawn = dict(fresh(seed) if fresh is not None else redraw(plain, derive(seed, "trial")))
        kinds: list[tuple[str, Iterable[Any], list[Any]]] = [("these data", data, first)]
        relabelled, notes = with_random_labels(first[0], seed)
        if relabelled is not None:
            kinds.append(("random labels", [relabelled], [relabelled]))
        _announce(timed, first, steps, 2 * len(kinds), named)
        begun = time.perf_counter()
        courses = []
        for words, batches, scored in kinds:
            ends: list[float] = []
            for content in (None, drawn):
                net = Trainee(copied(plain, content), make, loss)
                ends += net.course(batches, scored, steps, seed)
            courses.append(Course(words, *ends))
    return Trial(steps, named, tuple(courses), time.perf_counter() - begun, notes)


def _announce(net: Trainee, batches: list[Any], steps: int, networks: int, named: str) -> None:
    """Print the cost, estimated from a step of a copy that is thrown away; the first step warms up."""
    net.step(batches[0])
    _settle(net.model)
    begun = time.perf_counter()
    net.step(batches[-1])
    _settle(net.model)
    seconds = (time.perf_counter() - begun) * steps * networks
    print(
        f"trial: {steps} steps of {named} for a copy and for a fresh network, about {max(seconds, 0.1):.2g} s",
        file=sys.stderr,
        flush=True,
    )


def _settle(model: nn.Module) -> None:
    """Wait for the device, so that a time is that of the work."""
    if any(p.is_cuda for p in model.parameters()):
        torch.cuda.synchronize()


def first_batch(data: Iterable[Any], model: nn.Module) -> Any:
    """The first batch of a loader, which keeps its generators as they are.

    Raises:
        UserError: There is none, or it is an iterator, which could be read only once.
    """
    if isinstance(data, Iterator):
        raise UserError("batch is an iterator, which can be read only once: pass the loader itself, or one batch")
    with _as_before(data), drawing_from(None, model):
        for batch in data:
            return batch
    raise UserError("the loader holds no batch")


@contextmanager
def _as_before(data: Any) -> Iterator[None]:
    """Give the loader's own generators back the state they had."""
    holders = [data, getattr(data, "sampler", None)]
    own = {id(g): g for h in holders if isinstance(g := getattr(h, "generator", None), torch.Generator)}
    states = {key: generator.get_state() for key, generator in own.items()}
    try:
        yield
    finally:
        for key, state in states.items():
            own[key].set_state(state)


def _cross_entropy(batch: Any) -> LossFunction:
    """The loss of a classifier, for a batch of inputs and whole-number labels."""
    pair = isinstance(batch, tuple | list) and len(batch) == 2
    labels = batch[1] if pair else None
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dim() != 1:
        raise UserError(
            "a trial needs a loss: pass loss_fn=<function (model, batch) -> mean loss>, or a batch (inputs, labels) "
            "with whole-number labels for the cross-entropy"
        )

    def loss(model: nn.Module, batch: Any) -> Tensor:
        output = model(batch[0])
        return functional.cross_entropy(getattr(output, "logits", output), batch[1])

    return loss


def _optimizer(
    given: Optimizer | Callable[..., Optimizer] | None, learning_rate: float | None
) -> tuple[MakeOptimizer, str]:
    """A function of the parameters, and the optimizer's name with its learning rate."""
    if isinstance(given, Optimizer):
        group = given.param_groups[0]
        rate = group.get("initial_lr", group.get("lr")) if learning_rate is None else learning_rate
        known = signature(type(given)).parameters
        free = any(p.kind is Parameter.VAR_KEYWORD for p in known.values())
        settings = {key: group.get(key, value) for key, value in given.defaults.items() if free or key in known}
        made = partial(type(given), **settings | ({} if rate is None else {"lr": rate}))
        return made, _named(type(given).__name__, rate)
    if given is None or isinstance(given, type):
        kind = torch.optim.Adam if given is None else given
        rate = LEARNING_RATE if learning_rate is None else learning_rate
        return (lambda parameters: kind(parameters, lr=rate)), _named(kind.__name__, rate)
    if not callable(given):
        raise UserError(f"optimizer must be an optimizer, its class, or a function of parameters, got {given!r}")
    if learning_rate is not None:
        raise UserError("learning_rate has no effect beside a function that makes the optimizer: set it there")
    return given, getattr(given, "__name__", "the optimizer given").replace("<lambda>", "the optimizer given")


def _named(name: str, rate: Any) -> str:
    return f"{name} (learning rate {float(rate):.3g})" if rate is not None else name
