"""Shared by the commands for checkpoints: which weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from replastic import recipes

Role = Literal["head", "embedding", "router", "depthwise", "adapter"]


@dataclass(kw_only=True)
class Choice:
    """Which weights; see `replastic list recipes`."""

    recipe: str = recipes.DEFAULT
    """Which weights, and how they are seen: a name (`replastic list recipes`) or a TOML file of your own."""
    target_modules: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN ...")] = ()
    """Patterns that replace the recipe's choice, such as q_proj 'layers.*.mlp'; or all-linear."""
    exclude_modules: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN ...")] = ()
    """Patterns that are left out whatever else says."""
    include: Annotated[tuple[Role, ...], tyro.conf.arg(metavar="{head,embedding,router,depthwise,adapter} ...")] = ()
    """Weights that the recipe leaves alone by their role."""
    layout: Annotated[tuple[str, ...], tyro.conf.arg(metavar="PATTERN:KEY=VALUE,... ...")] = ()
    """How weights are cut whose class is unknown, such as qkv:split=q+k+v; NAME:whole is one matrix."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print JSON instead of a table."""

    def arguments(self) -> dict[str, Any]:
        """The choice as `inspect` and `rewrite` of the library take it."""
        return {
            "recipe": self.recipe,
            "target_modules": self.target_modules or None,
            "exclude_modules": self.exclude_modules,
            "include": self.include,
            "layout": self.layout,
        }
