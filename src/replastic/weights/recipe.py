"""Recipes: ordered rules that say which weights are touched, by which method, seen in which layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from replastic.weights.entries import MatrixInfo, WeightEntry

LEAVE = "leave"
APPLY = "apply"


@dataclass(frozen=True)
class Rule:
    """One line of a recipe; the first rule that matches a weight decides."""

    match: tuple[str, ...]
    """Any of: a pattern on the weight's or its module's name (shell wildcards; a plain word matches as a suffix at a
    dot, as in peft), ``role:<role>``, ``kind:<kind>``, ``layer:<kind>`` (its bias too), or ``*``."""
    action: str = APPLY
    """``apply`` (the method the caller asked for), ``leave``, or the name of another method."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the method to override, unless the caller set them."""
    layout: Mapping[str, Any] = field(default_factory=dict)
    """How the weight is seen, where modules and shapes do not tell: ``split`` (block names), ``sizes`` (rows of each),
    ``heads``, ``kv_heads``, ``per_head``, ``interleaved``, ``transposed`` (stored as (in, out)), ``groups``."""
    blocks: tuple[str, ...] = ()
    """Blocks of a fused weight to touch; empty for all."""
    why: str = ""
    """Reason, shown beside a weight that is left alone."""


@dataclass(frozen=True)
class Recipe:
    """Ordered rules. A weight that no rule matches is left alone."""

    name: str
    rules: tuple[Rule, ...]
    summary: str = ""
    reference: str = ""


@dataclass(frozen=True)
class Target:
    """A weight that a rule chose, its matrices, and the rule."""

    entry: WeightEntry
    infos: tuple[MatrixInfo, ...]
    """The batches of matrices the rule touches; none where the weight is chosen as a whole tensor."""
    rule: Rule

    def matrices(self, weight: Tensor) -> Iterator[tuple[MatrixInfo, Tensor]]:
        """Each touched batch of matrices in a tensor of the entry's shape, as (batch, d_out, d_in), with what it is."""
        view = self.entry.view
        if view is None:
            return
        for info, part in zip(view.infos(self.entry.name, self.entry.shape), view.split(weight), strict=True):
            if info in self.infos:
                yield info, part
