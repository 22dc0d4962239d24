"""A .pt, .pth, .bin or .th file, read without running its code: the state dict inside, and the rest around it."""

from __future__ import annotations

import copy
import errno
import pickle
import re
import warnings
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from replastic.errors import CheckpointError
from replastic.weights.archive import Stored, refuse_pointer
from replastic.weights.draft import sync

SUFFIXES = (".pt", ".pth", ".bin", ".th", ".ckpt")
_CONTAINERS = ("state_dict", "model_state_dict", "model", "module", "network", "net", "params", "weights")


class PickleArchive:
    """A file of `torch.save`, loaded whole with `weights_only=True`; implements `Archive`.

    The state dict may lie inside a container, under one of the usual keys. The rest of the container is written back.

    Raises:
        CheckpointError: The file is missing or damaged, holds objects that need code to be run, or has no state dict.
    """

    outputs: frozenset[str] = frozenset()

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content = _load(path)
        self.key, self.state = _find_state(self.content, path)
        """The key that holds the state dict (empty if the whole file is one), and the state dict."""
        found = {name: value for name, value in self.state.items() if isinstance(value, Tensor)}
        self.tensors: Mapping[str, Stored] = {
            name: Stored(tuple(value.shape), value.dtype) for name, value in found.items()
        }
        groups: dict[object, list[str]] = {}
        for name, value in found.items():
            place = (value.data_ptr(), value.shape, value.stride()) if value.numel() else name
            groups.setdefault(place, []).append(name)
        self.ties: tuple[tuple[str, ...], ...] = tuple(tuple(names) for names in groups.values() if len(names) > 1)
        self.size = path.stat().st_size
        surroundings = [str(key) for key in self.content if key != self.key] if self.key else []
        self.notes: tuple[str, ...] = (f"kept as it is: {', '.join(surroundings)}",) if surroundings else ()

    def read(self, name: str) -> Tensor:
        """One tensor. It shares the memory of the loaded content, so do not change it."""
        value = self.state[name]
        assert isinstance(value, Tensor)
        return value.detach()

    def equal(self, a: str, b: str) -> bool:
        """Whether two tensors hold the same values."""
        return torch.equal(self.state[a], self.state[b])

    def writer(self, draft: Path) -> PickleWriter:
        """Begin a copy at `draft`."""
        return PickleWriter(self, draft)


class PickleWriter:
    """Keeps new tensors until `finish` saves the whole content; implements `ArchiveWriter`."""

    def __init__(self, archive: PickleArchive, draft: Path) -> None:
        self._archive = archive
        self._draft = draft
        self._values: dict[str, Tensor] = {}

    def put(self, name: str, value: Tensor) -> None:
        """Keep a new tensor. Names that get the same object stay tied."""
        self._values[name] = value

    def finish(self) -> None:
        """Save the file, and wait until it is on the disk."""
        state = copy.copy(self._archive.state)  # keeps its type and attributes, such as `_metadata` of modules
        for name, value in self._values.items():
            old = state[name]
            state[name] = nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value
        content: Any = state
        if self._archive.key:
            content = copy.copy(self._archive.content)
            content[self._archive.key] = state
        try:
            with self._draft.open("xb") as file:
                torch.save(content, file)
        except RuntimeError as error:  # torch wraps an error of the disk in its own
            raise OSError(errno.EIO, "the disk took only a part of it") from error
        sync(self._draft)

    def close(self) -> None:
        """Do nothing: no file is open."""


def _load(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"cannot read {path}: no such file")
    try:
        with path.open("rb") as file:
            refuse_pointer(path, file.read(23))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of unusual pickles: they load, or the error says why not
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        if found is None:
            raise CheckpointError(
                f"{path} is refused: it is damaged or not a PyTorch checkpoint, or cannot be read without running its "
                "code"
            ) from None
        raise CheckpointError(
            f"{path} is refused: besides tensors it holds {found[1]}, and reading that could run code; if you trust "
            "the file, load it yourself and save its state dict as safetensors"
        ) from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # torch, on an archive whose end is missing
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from None
        raise CheckpointError(_damaged(path)) from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path} is a TorchScript archive: save its state dict instead, torch.jit.load(path).state_dict()"
            ) from None
        raise CheckpointError(_damaged(path)) from None


def _damaged(path: Path) -> str:
    return f"{path} is damaged or not a PyTorch checkpoint: fetch it or save it again"


def _find_state(content: Any, path: Path) -> tuple[str, MutableMapping[str, Any]]:
    if _is_state(content):
        return "", content
    if isinstance(content, dict):
        for key in _CONTAINERS:
            if _is_state(content.get(key)):
                return key, content[key]
        others = [str(key) for key, value in content.items() if _is_state(value)]
        if len(others) == 1:
            return others[0], content[others[0]]
        if others:
            raise CheckpointError(
                f"{path} holds several state dicts ({', '.join(others)}): save the one to use as a file of its own"
            )
    raise CheckpointError(f"{path} holds no state dict (tensors by name): save model.state_dict() into it")


def _is_state(value: Any) -> bool:
    """Whether it looks like a state dict: its keys are texts, and most values tensors (some modules add others)."""
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        return False
    return 2 * sum(isinstance(item, Tensor) for item in value.values()) > len(value)
