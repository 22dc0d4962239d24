"""A plug-in method that takes its time with each tensor, and notes in a file which it has done."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from replastic.methods import WeightMethod, register
from replastic.options import option
from replastic.weights.entries import MatrixInfo


@register("slow_negation")
@dataclass(kw_only=True)
class SlowNegation(WeightMethod):
    """Minus the weight, after a while."""

    seconds: float = option(0.05, help="time that each tensor takes", low=0)

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        """The negated weight."""
        time.sleep(self.seconds)
        with Path(os.environ["SOLVED"]).open("a") as file:
            file.write(f"{info.weight}\n")
        return -w
