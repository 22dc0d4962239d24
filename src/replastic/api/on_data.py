"""A checkpoint together with the code that runs it and with data: what `diagnose` needs, from what a person has."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic import data, networks
from replastic.api._calls import public
from replastic.api.diagnose import Diagnosis, diagnose
from replastic.disk import user_path
from replastic.errors import UserError
from replastic.probes import undisturbed
from replastic.records import RUN, STATE, RunDirectory
from replastic.weights.checkpoint import CheckpointStore, LazyWeights
from replastic.weights.naming import RUN_STATE

SAMPLES = 600
"""Samples that are looked at, if nobody says otherwise: as many as a run's own measures take."""
_INPUTS = ("inputs", "input", "x", "images", "features", "data")
_TARGETS = ("targets", "target", "labels", "label", "y")


@public
def inspect_on(
    path: str | Path, on: str | Path, *, model: str = "", samples: int = SAMPLES, **arguments: Any
) -> Diagnosis:
    """Diagnose a checkpoint on data; see `diagnose`. Changes nothing.

    The loss is the cross-entropy for whole-number labels, and the mean squared error for targets that are numbers.

    Args:
        path: A checkpoint, or the folder of a run of `replastic run` that has not finished, whose network is known.
        on: A data set (``replastic list data``), of which the test split is taken, or a file of tensors: .pt with a
            pair or a table, or .safetensors, with ``inputs`` and ``targets`` (or ``x``, ``y``, ``images``, ``labels``).
        model: ``file.py:function`` or ``module:function``: called without arguments, it returns the module.
        samples: Taken from the start of the data.
        **arguments: Those of `diagnose`.

    Raises:
        UserError: The network is not known, the checkpoint does not fit it, or the data cannot be read.
    """
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise UserError(f"samples must be a whole number of 1 or more, got {samples!r}")
    folder = user_path(path)
    run = RunDirectory(folder)
    file = folder / STATE / "state.safetensors" if run.exists else folder
    if run.exists and not file.is_file():
        raise UserError(
            f"{folder} holds no weights: a run keeps them in {STATE}/ until it has finished, and this one has; inspect "
            "a run that was stopped, or a checkpoint of your own"
        )
    batch, shape, classes = _batch(on, samples)
    if model:
        net = _made(model)
    elif run.exists:
        net = network_of(run.path / RUN, run.info().config, shape, classes)
    else:
        raise UserError(
            f"{path} holds weights, but no code that runs them: pass --model FILE.py:FUNCTION (called without "
            "arguments, it returns the module), load them yourself and call replastic.diagnose(model, batch, loss_fn), "
            "or give the folder of an unfinished run"
        )
    fill(net, file)
    loss_fn = _squared if batch[1].is_floating_point() else _entropy
    _check_fit(net, batch, loss_fn)
    return diagnose(net, batch, loss_fn, **arguments)


def _check_fit(net: nn.Module, batch: tuple[Tensor, Tensor], loss_fn: Callable[[nn.Module, Any], Tensor]) -> None:
    """See that the network runs on the samples, before anything is measured.

    Raises:
        UserError: It does not, or the loss cannot be computed of what it returns.
    """
    try:
        with torch.no_grad(), undisturbed(net):
            loss_fn(net, batch)
    except Exception as error:
        inputs, targets = ("x".join(map(str, part.shape[1:])) or "one number" for part in batch)
        said = str(error).partition("\n")[0]
        raise UserError(
            f"the network cannot be run on these data, samples of {inputs} ({batch[0].dtype}) with targets of "
            f"{targets} ({batch[1].dtype}): {type(error).__name__}: {said}"
        ) from error


def _entropy(model: nn.Module, batch: Any) -> Tensor:
    output = model(batch[0])
    return functional.cross_entropy(getattr(output, "logits", output), batch[1])


def _squared(model: nn.Module, batch: Any) -> Tensor:
    output = model(batch[0])
    return functional.mse_loss(output.reshape(batch[1].shape), batch[1])


def _batch(on: str | Path, samples: int) -> tuple[tuple[Tensor, Tensor], tuple[int, ...], int]:
    """The first samples with their targets, the shape of a sample and the number of classes (1 for numbers)."""
    file = user_path(on)
    if not file.is_file():
        if str(on).endswith((".pt", ".pth", ".safetensors")):
            raise UserError(f"there is no file {str(on)!r}")
        splits = data.load(str(on))
        return splits.test.batch(slice(samples)), splits.train.sample_shape, splits.train.classes
    held = LazyWeights(CheckpointStore(file)) if file.suffix == ".safetensors" else _loaded(file)
    if isinstance(held, Mapping):
        inputs, targets = (next((held[n] for n in known if n in held), None) for known in (_INPUTS, _TARGETS))
    else:
        inputs, targets = held if isinstance(held, list | tuple) and len(held) == 2 else (None, None)
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor) or len(inputs) != len(targets):
        raise UserError(
            f"{file} must hold inputs and targets, tensors with a row for each sample: a pair, or a table with the "
            f"keys {_INPUTS[0]} and {_TARGETS[0]}"
        )
    classes = 1 if targets.is_floating_point() else int(targets.max()) + 1
    return (inputs[:samples], targets[:samples]), tuple(inputs.shape[1:]), classes


def _loaded(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        said = str(error).partition("\n")[0]
        raise UserError(f"{file} cannot be read as tensors saved by torch.save: {said}") from None


def _made(spec: str) -> nn.Module:
    """The module that the function of a spec returns."""
    place, colon, function = spec.rpartition(":")
    if not colon or not place or not function:
        raise UserError(f"--model must be FILE.py:FUNCTION or MODULE:FUNCTION, got {spec!r}")
    try:
        module = _from_file(user_path(place)) if place.endswith(".py") else _from_name(place)
    except (Exception, SystemExit) as error:
        raise UserError(f"--model: cannot import {place}: {type(error).__name__}: {error}") from error
    make = getattr(module, function, None)
    if not callable(make):
        raise UserError(f"--model: {place} has no function {function!r}")
    made = make()
    if not isinstance(made, nn.Module):
        raise UserError(f"--model: {function}() must return a torch.nn.Module, got {type(made).__name__}")
    return made


def _from_file(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"replastic_model_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickles look for it there
    spec.loader.exec_module(module)
    return module


def _from_name(place: str) -> ModuleType:
    sys.path.insert(0, "")  # the folder one stands in, as `python -m` does
    try:
        return importlib.import_module(place)
    finally:
        sys.path.remove("")


def network_of(file: Path, config: Mapping[str, Any], shape: tuple[int, ...], classes: int) -> nn.Module:
    """The network that the settings of a run name, newly drawn.

    Args:
        file: Where the settings stand, for messages.
        config: The settings.
        shape: Of a sample.
        classes: Number of outputs.

    Raises:
        UserError: They name none that is known here.
    """
    named = config.get("network")
    given = dict(named) if isinstance(named, Mapping) else {}
    kinds = {networks.get(name).__name__: networks.get(name) for name in networks.names()}
    kind = kinds.get(str(given.pop("type", "")))
    if kind is None:
        raise UserError(f"{file} names no network that is known here: pass --model FILE.py:FUNCTION")
    known = {f.name for f in fields(kind)}
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in given.items() if key in known}
    return networks.build(kind(**values), shape, classes, 0)


def fill(net: nn.Module, file: Path) -> None:
    """Load the weights into the module."""
    held = LazyWeights(CheckpointStore(file))
    state = {name.removeprefix(RUN_STATE): held[name] for name in held}
    own = net.state_dict(keep_vars=True)
    there = {id(value): name for name, value in own.items() if name in state}
    state |= {name: state[there[id(v)]] for name, v in own.items() if name not in state and id(v) in there}  # tied
    missing = [name for name in own if name not in state]
    other = [n for n in own if n in state and own[n].shape != state[n].shape]
    if missing or other:
        first = missing[0] if missing else other[0]
        why = "it lacks" if missing else "its shape differs in"
        raise UserError(f"{file} does not fit the model: {why} {first}; pass the --model that it was saved from")
    net.load_state_dict({name: state[name] for name in own})
