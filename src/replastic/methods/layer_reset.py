"""Layer reset: the last layers, or chosen ones, are drawn anew and the rest of the network stays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from replastic.interventions.aim import TARGETS_HELP, aimed, check_targets, last_layers
from replastic.interventions.draws import drawn
from replastic.interventions.method import register
from replastic.interventions.plan import plan
from replastic.interventions.redrawn import Redrawn
from replastic.interventions.run import Run
from replastic.interventions.solve import propose
from replastic.options import option
from replastic.weights.change import Change, UnitReset


@register("layer_reset", reference="https://arxiv.org/abs/2205.07802")
@dataclass(kw_only=True)
class LayerReset(Redrawn):
    """Draws the last `last` layers anew, weights and biases, and clears the optimizer's memory of them.

    It acts at every boundary and, with `every`, after every so many updates as well; each time with another draw. A
    layer is a module with a matrix or a kernel. The output layer is the last one, the layers before it count in the
    order in which the network holds them. `targets` names layers instead, normalisation layers and their buffers too.
    `head_reset` is the control that puts the output layer back to the very values it began with, at boundaries alone;
    `fresh` draws the whole network.

    Reference: Nikishin et al. (2022), section 4, who draw the last layers (of small agents all) anew every so many
    updates; the boundary is ours.
    """

    last: int = option(1, help="layers that are drawn anew, counted from the output layer", low=1, search=(1, 2, 3))
    every: int = option(0, help="updates of the run between two resets; 0 resets at boundaries alone", low=0)
    targets: str = option("", help=TARGETS_HELP)

    def validate(self) -> None:
        """Refuse an empty pattern in `targets`."""
        check_targets(self.name, self.targets)

    def idle(self) -> frozenset[str]:
        """`last`, where `targets` chooses."""
        return frozenset({"last"} if self.targets else ())

    def narrowed(self, run: Run) -> Run:
        """The run with the tensors of the chosen layers as its targets.

        Raises:
            UserError: Both name targets, there is no output layer, or fewer layers than `last`.
        """
        run = aimed(self.name, self.targets, run)
        return (
            run
            if run.target_modules is not None
            else replace(run, target_modules=last_layers(self.name, run, self.last))
        )

    def reference(self, run: Run) -> Mapping[str, Tensor]:
        """A new draw, another one at every reset."""
        return drawn(run, run.phase, run.step, self.name)

    def after_step(self, run: Run) -> Change | None:
        """Reset when it is time. All rows of a tensor are proposed, so that copies follow and moments are cleared."""
        if not self.every or run.step % self.every:
            return None
        change = propose(plan(self, run), run)
        flat, units = [], []
        for proposal in change.proposals:
            rows = proposal.value.shape[0] if proposal.value.dim() else 0
            if rows:
                units.append(UnitReset(proposal.name, 0, torch.arange(rows), proposal.value))
            else:
                flat.append(replace(proposal, layers=()))
        return Change(flat, units)
