"""Base of the methods that put earlier weights of the run in place of all there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.interventions.method import Scope, WeightMethod
from replastic.interventions.run import Checkpoint, Need, Run
from replastic.weights.entries import MatrixInfo


@dataclass(kw_only=True)
class Earlier(WeightMethod):
    """Puts every trainable parameter and every buffer to a value found from the checkpoints of the phase just ended.

    A subclass gives these values as `reference`.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"checkpoints"})
    scope: ClassVar[Scope] = "state"
    compared_with: ClassVar[str] = "weights of the checkpoint"
    goes_back: ClassVar[bool] = True

    def solve(self, w: Tensor, info: MatrixInfo, w0: Tensor | None, generator: torch.Generator) -> Tensor:
        """The value found."""
        assert w0 is not None
        return w0

    def kept(self, run: Run) -> Sequence[Checkpoint]:
        """The checkpoints.

        Raises:
            UserError: There are none.
        """
        if not run.checkpoints:
            raise UserError(f"{self.name} goes back to checkpoints, and of the phase that has ended there are none")
        return run.checkpoints
