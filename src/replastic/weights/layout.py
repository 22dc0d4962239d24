"""Views of the tensors of a file without a config, from their names, their shapes and the tensors beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from replastic.weights.entries import View, WeightEntry
from replastic.weights.geometry import UnclearView
from replastic.weights.naming import MATRIX_ROLES, is_expert_stack, role_of, strip_prefixes
from replastic.weights.views import fused_layout, view_from_layout

Shapes = Mapping[str, tuple[int, ...]]

_RULE = "say so in a recipe rule for it, such as"
_IMAGE = 4
"""Largest number of channels of an image: colours and transparency, or stacked frames."""


@dataclass(frozen=True)
class Guess:
    """The most likely kind and layout of one tensor. `problem` says why this is not certain, and how to settle it."""

    kind: str | None
    layout: Mapping[str, Any] = field(default_factory=dict)
    problem: str = ""

    def view(self, name: str, shape: tuple[int, ...]) -> View | None:
        """The view that the guess describes. If there is a problem, only a rule's layout makes it usable."""
        if self.kind is None:
            return None
        if self.problem:
            return UnclearView(self.kind, f"{name}: {self.problem}", self.layout)
        return view_from_layout(self.kind, shape, self.layout, name=name)


def entries_from_shapes(shapes: Shapes, dtypes: Mapping[str, torch.dtype]) -> list[WeightEntry]:
    """One entry per tensor in the given order, with the view that names and shapes suggest.

    Two axes are a Linear and four a convolution. Three are a stack of experts or a Conv1d, by their names. If the shape
    alone leaves doubt, other tensors of the file settle it where they are a proof:

    * A bias as long as the second axis: the weight is stored as (in, out), or is a transposed convolution.
    * A kernel with a fan-in that no layer puts out: the convolution is grouped.
    * A fused qkv whose rows are not three times its fan-in: its key/value heads are unknown.

    If doubt remains, the weight asks for a layout.
    """
    clues = _Clues(shapes)
    return [_entry(name, shape, dtypes[name], clues) for name, shape in shapes.items()]


def _entry(name: str, shape: tuple[int, ...], dtype: torch.dtype, clues: _Clues) -> WeightEntry:
    role = "other" if _is_part(name, clues.shapes) else role_of(name, shape)
    matrix = role in MATRIX_ROLES and len(shape) > 1
    packed = f"it is stored as {str(dtype).removeprefix('torch.')}: dequantise the checkpoint first"
    if not dtype.is_floating_point:
        return WeightEntry(name, shape, dtype, "buffer", None, trainable=False, refusal=packed if matrix else "")
    view = _guess(name, shape, clues).view(name, shape) if matrix else None
    refusal = packed if dtype.itemsize < 2 else ""
    return WeightEntry(name, shape, dtype, role, view, trainable=role != "buffer", refusal=refusal)


def _is_part(name: str, shapes: Shapes) -> bool:
    """Whether the only use of a tensor is to compute a weight: a part of a parametrization, weight norm or pruning."""
    stem, _, part = name.rpartition("_")
    partners = {"g": ("v",), "v": ("g",), "orig": ("mask", "u")}.get(part, ())
    return "parametrizations" in name.split(".") or any(f"{stem}_{partner}" in shapes for partner in partners)


class _Clues:
    """Facts about the tensors of one file that help to interpret the others."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        kernels = {n: s for n, s in shapes.items() if self.is_kernel(n)}
        turned = {n for n in kernels if self.is_turned(n)}
        self.fan_outs = {s[1] if n in turned else s[0] for n, s in shapes.items() if n in kernels or len(s) == 2}
        self.fan_ins = Counter(s[1] for n, s in kernels.items() if n not in turned)
        self.has_stem = any(1 < fan_in <= _IMAGE and fan_in not in self.fan_outs for fan_in in self.fan_ins)
        """Whether a kernel reads the channels of an image: a small number that no layer puts out."""
        self.single = [n for n, s in kernels.items() if s[1] == 1 and not _says_depthwise(n)]
        """Kernels with one input channel whose name does not say that they are depthwise."""
        oblong = [n for n, s in shapes.items() if len(s) == 2 and s[0] != s[1] and self.bias(n) is not None]
        self.transposed = {_module(n) for n in oblong if self.is_turned(n)} - {
            _module(n) for n in oblong if not self.is_turned(n)
        }
        """Names of modules whose two-axis weights are stored as (in, out), as their oblong weights show."""

    def is_kernel(self, name: str) -> bool:
        """Whether a weight is a convolution's. Four or five axes say so; with three, a bias or the name must."""
        axes = len(self.shapes[name])
        if not name.endswith("weight") or is_expert_stack(name, self.shapes[name]) or not 3 <= axes <= 5:
            return False
        return axes > 3 or "conv" in name.lower() or self.bias(name) == (self.shapes[name][0],)

    def is_turned(self, name: str) -> bool:
        """Whether the second axis is the fan-out: the bias is as long as that axis, and not as the first."""
        first, second = self.shapes[name][:2]
        return first != second and self.bias(name) == (second,)

    def bias(self, name: str) -> tuple[int, ...] | None:
        """Shape of the bias that belongs to a weight."""
        return self.shapes.get(f"{name.removesuffix('weight')}bias") if name.endswith("weight") else None

    def sibling(self, name: str, other: str) -> tuple[int, ...] | None:
        """Shape of the tensor `other` of the same module."""
        return self.shapes.get(".".join((*name.split(".")[:-1], other)))


def _guess(name: str, shape: tuple[int, ...], clues: _Clues) -> Guess:
    if len(shape) == 2:
        return _matrix(name, shape, clues)
    if is_expert_stack(name, shape):
        return _experts(name, shape, clues)
    if clues.is_kernel(name):
        return _kernel(name, shape, clues)
    if len(shape) == 3 and name.endswith("weight"):
        return Guess("conv", {}, f"three axes may be a Conv1d or a stack of matrices: {_RULE} layout = {{groups = 1}}")
    return Guess(None)


def _matrix(name: str, shape: tuple[int, ...], clues: _Clues) -> Guess:
    module = _module(name)
    transposed = module in clues.transposed and clues.bias(name) in (None, (shape[1],))
    layout: dict[str, Any] = {"transposed": True} if transposed else {}
    d_in, rows = shape if transposed else reversed(shape)
    if name.rsplit(".", 1)[-1] == "in_proj_weight":
        fused: Mapping[str, Any] = {"split": ("q", "k", "v")} if rows == 3 * d_in else {}
    else:
        fused = fused_layout(module, rows, d_in)
    if "q" in fused.get("split", ()):
        if module == "query_key_value":
            problem = f"the order of its rows depends on the heads: {_RULE} layout = {{heads = 12, interleaved = true}}"
            return Guess("linear", layout, problem)
        if rows != 3 * d_in:
            return Guess(
                "linear",
                layout,
                f"{rows} rows are not 3 x {d_in}, so it is not known where q, k and v begin: {_RULE} "
                "layout = {split = ['q', 'k', 'v'], heads = 32, kv_heads = 8}",
            )
    return Guess("linear", {**layout, **fused})


def _experts(name: str, shape: tuple[int, ...], clues: _Clues) -> Guess:
    leaf = name.rsplit(".", 1)[-1]
    both, down = clues.sibling(name, "gate_up_proj"), clues.sibling(name, "down_proj")
    layout: dict[str, Any] = {"split": ("gate", "up")} if leaf == "gate_up_proj" else {}
    if both is not None and down is not None and both[1] != 2 * down[2]:
        return Guess(
            "experts",
            layout,
            f"it is a stack stored as (in, out), whose rows may alternate: {_RULE} "
            "layout = {transposed = true, split = ['gate', 'up'], interleaved = true}",
        )
    return Guess("experts", layout)


def _kernel(name: str, shape: tuple[int, ...], clues: _Clues) -> Guess:
    channels, fan_in = shape[:2]
    if clues.is_turned(name):
        return Guess("conv_transpose")
    if fan_in == 1 and (_says_depthwise(name) or clues.has_stem):
        return Guess("conv", {"groups": channels})
    if fan_in == 1 and len(clues.single) > 1:
        problem = f"it is depthwise or reads a grey image: {_RULE} layout = {{groups = {channels}}}, or 1"
        return Guess("conv", {}, problem)
    unheard = fan_in > 1 and fan_in not in clues.fan_outs
    if unheard and (fan_in > _IMAGE or clues.fan_ins[fan_in] > 1):
        wider = (width // fan_in for width in clues.fan_outs if width > fan_in and width % fan_in == 0)
        groups = min((g for g in wider if channels % g == 0), default=0)
        if groups:
            return Guess("conv", {}, f"it looks like a grouped convolution: {_RULE} layout = {{groups = {groups}}}")
    return Guess("conv")


def _says_depthwise(name: str) -> bool:
    return any(word in part for part in name.lower().split(".") for word in ("depthwise", "dwconv", "conv_dw"))


def _module(name: str) -> str:
    """Last part of the module's name: ``c_attn`` of ``h.0.attn.c_attn.weight``."""
    parts = strip_prefixes(name).split(".")
    return parts[-2] if len(parts) > 1 else ""
