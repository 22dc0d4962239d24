"""Tensors in nested tuples, lists and mappings: found, or replaced."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor


def tensors(tree: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists and mappings."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        yield from tensors(list(tree.values()))
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from tensors(part)


def mapped(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """A copy of nested tuples, lists and mappings with a function applied to every tensor."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(mapped(function, part) for part in tree))
    if isinstance(tree, tuple | list):
        return type(tree)(mapped(function, part) for part in tree)
    if isinstance(tree, Mapping):
        return {key: mapped(function, part) for key, part in tree.items()}
    return tree
