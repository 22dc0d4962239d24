"""Chooses the view of a weight, by its module, the module around it, or the layout of a recipe's rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from replastic.errors import UserError, near_misses
from replastic.weights.derived import read_derived
from replastic.weights.entries import View
from replastic.weights.geometry import (
    REMEDY,
    Block,
    ConvTransposeView,
    ConvView,
    ExpertsView,
    FusedView,
    InterleavedView,
    LinearView,
    UnclearView,
)
from replastic.weights.naming import is_expert_stack

LAYOUT_KEYS: Mapping[str, type] = {
    "split": list,
    "sizes": list,
    "heads": int,
    "kv_heads": int,
    "per_head": bool,
    "interleaved": bool,
    "transposed": bool,
    "groups": int,
}
"""Keys of `Rule.layout`, with the type of each value."""
KINDS = ("linear", "conv", "conv_transpose", "experts")
"""Kinds of weights that hold matrices."""

_OUTDATES = {
    "split": ("sizes", "interleaved"),
    "sizes": ("interleaved",),
    "heads": ("sizes",),
    "kv_heads": ("sizes",),
}
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_FUSED_QKV = ("qkv", "c_attn", "wqkv", "qkv_proj", "query_key_value", "in_proj", "in_proj_qkv", "to_qkv", "attn_qkv")
_INTERLEAVED_QKV = ("query_key_value",)  # Megatron's name; code that uses it also has Megatron's order of rows
_NEEDS_HEADS = ("in_proj",)  # state-space layers use this name for other fused weights
_GATE_UP = ("gate_up_proj", "gate_up")
_HEADS = ("num_heads", "num_attention_heads", "n_head", "n_heads", "heads")
_KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head", "kv_heads")


def view_of(
    module: nn.Module,
    parameter: str,
    layout: Mapping[str, Any] | None = None,
    *,
    name: str = "",
    parent: nn.Module | None = None,
) -> View | None:
    """The view of one parameter of a module, or None if it holds no matrices.

    A fused weight whose rows cannot be divided gets an `UnclearView`, which raises when its matrices are asked for.

    Args:
        module: The module that owns the parameter.
        parameter: Name of the parameter in it, such as ``weight``.
        layout: Keys that override the known layout; see `Rule.layout`.
        name: Full name in the model. It shows fused weights and stacks of experts.
        parent: Module around `module`. Its attributes, or those of its ``config``, give the heads of a fused qkv.

    Raises:
        UserError: The layout does not fit the weight.
    """
    weight = read_derived(module, parameter)
    name = name or parameter
    kind = _kind(module, parameter, weight, name)
    if kind is None:
        return None
    known = _known_layout(module, parameter, weight, name, kind, parent)
    try:
        view = view_from_layout(kind, weight.shape, known, name=name)
    except UserError as error:
        view = UnclearView(kind, str(error), known)
    return view_with(view, weight.shape, layout, name=name) if layout else view


def view_with(view: View, shape: Sequence[int], layout: Mapping[str, Any], *, name: str = "the weight") -> View:
    """The view with the keys of a rule's layout in place of its own; see `view_from_layout`."""
    known = dict(view.layout)
    split = known.get("split")
    if "split" in layout and split is not None and tuple(layout["split"]) == tuple(split):
        layout = {key: value for key, value in layout.items() if key != "split"}  # says what is known already
    for key in layout:
        for old in _OUTDATES.get(key, ()):
            known.pop(old, None)
    return view_from_layout(view.kind, shape, {**known, **layout}, name=name)


def view_from_layout(kind: str, shape: Sequence[int], layout: Mapping[str, Any], *, name: str = "the weight") -> View:
    """The view that a kind and a layout describe.

    Args:
        kind: One of `KINDS`.
        shape: Shape of the weight.
        layout: Keys of `Rule.layout`. Keys that do not apply to the kind are refused.
        name: Name of the weight, for messages.

    Raises:
        UserError: The kind or a key is unknown, or the shape does not fit the layout; the message names the weight.
    """
    if kind not in KINDS:
        raise UserError(f"{name}: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    _check_keys(name, kind, layout)
    view: View
    if kind in ("conv", "conv_transpose"):
        view = (ConvView if kind == "conv" else ConvTransposeView)(groups=int(layout.get("groups", 1)))
    elif layout.get("interleaved") and kind == "linear":
        view = _interleaved(name, layout)
    elif kind == "experts" or layout.get("split") or layout.get("per_head"):
        view = _fused(kind, shape, layout, name)
    else:
        view = LinearView(transposed=bool(layout.get("transposed", False)))
    view.infos(name, shape)
    return view


def fused_layout(
    leaf: str, rows: int, d_in: int, heads: int | None = None, kv_heads: int | None = None
) -> dict[str, Any]:
    """The layout by a module's own name; empty unless it is a usual name of a fused weight.

    Args:
        leaf: Last part of the module's name, such as ``c_attn``.
        rows: Fan-out of the whole weight.
        d_in: Fan-in.
        heads: Attention heads of the module around it, if known.
        kv_heads: Key/value heads, if known.
    """
    word = leaf.lower()
    if word in _GATE_UP:
        return {"split": ("gate", "up")}
    if word not in _FUSED_QKV or (word in _NEEDS_HEADS and (heads is None or rows != 3 * d_in)):
        return {}
    layout: dict[str, Any] = {"split": ("q", "k", "v")}
    if heads is not None:
        layout["heads"] = heads
        layout["kv_heads"] = kv_heads or heads
    if word in _INTERLEAVED_QKV and heads is not None:
        layout["interleaved"] = True
    return layout


def _kind(module: nn.Module, parameter: str, weight: Tensor, name: str) -> str | None:
    if isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED_CONVOLUTIONS)):
        if parameter != "weight":
            return None
        return "conv_transpose" if isinstance(module, _TRANSPOSED_CONVOLUTIONS) else "conv"
    if weight.ndim == 2:
        return "linear"
    return "experts" if is_expert_stack(name, weight.shape) else None


def _known_layout(
    module: nn.Module, parameter: str, weight: Tensor, name: str, kind: str, parent: nn.Module | None
) -> dict[str, Any]:
    if kind in ("conv", "conv_transpose"):
        return {"groups": module.groups}
    if kind == "experts":
        layout: dict[str, Any] = {"transposed": bool(getattr(module, "is_transposed", False))}
        if parameter in _GATE_UP:
            interleaved = not getattr(module, "is_concatenated", True)
            layout |= {"split": ("gate", "up"), "interleaved": interleaved}
        return layout
    if isinstance(module, nn.MultiheadAttention):
        return {"split": ("q", "k", "v")} if parameter == "in_proj_weight" else {}
    transposed = any(c.__name__ == "Conv1D" for c in type(module).__mro__) and hasattr(module, "nf")
    layout = {"transposed": True} if transposed else {}
    if parameter == "weight" and not isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        d_in, rows = weight.shape if transposed else reversed(weight.shape)
        leaf = name.split(".")[-2] if "." in name else ""
        layout |= fused_layout(leaf, rows, d_in, *_heads(parent))
    return layout


def _heads(parent: nn.Module | None) -> tuple[int | None, int | None]:
    """Numbers of attention heads and key/value heads, from attributes of a module or its `config`."""
    sources = [s for s in (parent, getattr(parent, "config", None)) if s is not None]

    def first(names: Sequence[str]) -> int | None:
        found = (getattr(s, n, None) for s in sources for n in names)
        return next((f for f in found if isinstance(f, int) and not isinstance(f, bool) and f > 0), None)

    heads, kv_heads = first(_HEADS), first(_KV_HEADS)
    repeats = first(("num_key_value_groups",))
    if kv_heads is None and heads is not None and repeats is not None:
        kv_heads = heads // repeats
    return heads, kv_heads


def _check_keys(name: str, kind: str, layout: Mapping[str, Any]) -> None:
    for key in layout:
        if key not in LAYOUT_KEYS:
            close = near_misses(key, LAYOUT_KEYS) or LAYOUT_KEYS
            raise UserError(f"{name}: unknown layout key {key!r}; allowed: {', '.join(close)}")
        if (key == "groups") != (kind in ("conv", "conv_transpose")):
            raise UserError(f"{name}: layout key {key!r} has no meaning for a weight of kind {kind}")


def _interleaved(name: str, layout: Mapping[str, Any]) -> View:
    heads = layout.get("heads")
    if not heads:
        raise UserError(f"{name}: an interleaved layout needs the number of heads, such as heads = 12")
    if tuple(layout.get("split", ("q", "k", "v"))) != InterleavedView.names:
        raise UserError(f"{name}: an interleaved layout can only be split into q, k, v, got {layout['split']}")
    return InterleavedView(
        heads=int(heads),
        kv_heads=int(layout.get("kv_heads") or heads),
        per_head=bool(layout.get("per_head", False)),
        transposed=bool(layout.get("transposed", False)),
    )


def _fused(kind: str, shape: Sequence[int], layout: Mapping[str, Any], name: str) -> View:
    transposed = bool(layout.get("transposed", False))
    if len(shape) < 2:
        raise UserError(f"{name} has {len(shape)} axis and cannot be split into blocks")
    rows = shape[-1] if transposed else shape[-2]
    names = tuple(layout.get("split") or ("",))
    sizes = _sizes(name, rows, names, layout)
    heads = int(layout.get("heads") or 0)
    kv_heads = int(layout.get("kv_heads") or heads)
    blocks = tuple(
        Block(block, size, kv_heads if block in ("k", "v") else heads) for block, size in zip(names, sizes, strict=True)
    )
    per_head = bool(layout.get("per_head", False))
    if kind == "experts":
        return ExpertsView(blocks, transposed, per_head, interleaved=bool(layout.get("interleaved", False)))
    return FusedView(blocks, transposed, per_head)


def _sizes(name: str, rows: int, names: tuple[str, ...], layout: Mapping[str, Any]) -> tuple[int, ...]:
    """Rows of each block: from `sizes`, else from the heads of q, k and v, else equally many."""
    if layout.get("sizes"):
        sizes = tuple(int(s) for s in layout["sizes"])
        if len(sizes) != len(names):
            raise UserError(f"{name}: {len(sizes)} sizes for {len(names)} blocks ({', '.join(names)})")
        return sizes
    heads, kv_heads = layout.get("heads"), layout.get("kv_heads")
    if names == ("q", "k", "v") and heads and kv_heads:
        head_dim, rest = divmod(rows, heads + 2 * kv_heads)
        if rest:
            raise UserError(
                f"{name} has {rows} rows, which {heads} heads with {kv_heads} key/value heads do not divide; {REMEDY}"
            )
        return heads * head_dim, kv_heads * head_dim, kv_heads * head_dim
    size, rest = divmod(rows, len(names))
    if rest:
        raise UserError(f"{name} has {rows} rows, which do not divide into {', '.join(names)}; {REMEDY}")
    return (size,) * len(names)
