"""LoRA: from the first boundary on the weights are frozen, and a product of two thin matrices beside each learns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from replastic.errors import UserError
from replastic.interventions.aim import TARGETS_HELP, aimed_matrices, check_targets
from replastic.interventions.low_rank import LowRank
from replastic.interventions.method import Method, register
from replastic.interventions.run import Need, Run
from replastic.options import option
from replastic.seeds import generator
from replastic.weights.change import Change, UnitReset


@register("lora", reference="https://arxiv.org/abs/2106.09685")
@dataclass(kw_only=True)
class Lora(Method):
    """Gives every chosen hidden Linear an adapter, W x + (alpha / rank) B A x, and freezes all that was there.

    W and its bias keep their names; ``lora_A`` and ``lora_B`` stand beside them. Outputs are the same right after it,
    as B is zero. Only A and B learn from then on, through all further phases. Which weights: the recipe's, without
    output layers and embeddings; a fused projection gets one adapter. In ``fire+lora`` FIRE rewrites W, and then the
    adapters are added; after that FIRE leaves W alone as it is frozen, and A and B unless they are named
    (``targets=*lora_A``), as two isometries do not make an isometry of their product.

    Reference: Hu et al. (2022), section 4.1. A is uniform in +-1 / sqrt(d_in), as in their code and in peft.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"model"})
    changes_structure: ClassVar[bool] = True
    draws: ClassVar[bool] = True

    rank: int = option(8, help="rank of the product B A", low=1, search=(4, 8, 16))
    alpha: float = option(16.0, help="the product is multiplied by alpha / rank", above=0)
    targets: str = option("", help=TARGETS_HELP)

    def validate(self) -> None:
        """No pattern is empty."""
        check_targets(self.name, self.targets)

    def check(self, run: Run) -> None:
        """See that there are Linears to adapt."""
        self._chosen(run)

    def setup(self, run: Run) -> None:
        """Note which Linears get an adapter."""
        self._names = self._chosen(run)
        self._wanted = False

    def on_boundary(self, run: Run) -> Change | None:
        """The adapters, at the first boundary."""
        return None if _adapted(run) else Change(modules=self._adapters(run))

    def after_write(self, run: Run, names: Collection[str], units: Sequence[UnitReset]) -> None:
        """Once they are in place, freeze the rest."""
        if _adapted(run):
            _freeze(run)

    def state_dict(self) -> dict[str, Tensor]:
        """Whether the adapters are in place; their weights are saved with the model."""
        return {"adapted": torch.tensor(any(isinstance(m, LowRank) for m in self._model.modules()))}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Note whether they are to be."""
        self._wanted = bool(state["adapted"])

    def rebuild(self, run: Run) -> Change | None:
        """The adapters with any weights, if there were some: the saved ones come next."""
        if not self._wanted:
            return None
        modules = self._adapters(run)
        _freeze(run)
        return Change(modules=modules)

    def close(self) -> None:
        """Let go of the model."""
        self.__dict__.pop("_model", None)

    def _chosen(self, run: Run) -> list[str]:
        """Names of the Linears."""
        assert isinstance(run.model, nn.Module)
        self._model = run.model
        names = [
            target.entry.name.removesuffix(".weight")
            for target in aimed_matrices(self.name, self.targets, run)
            if target.entry.role == "matrix" and target.entry.name.endswith(".weight")
        ]
        found = [name for name in names if isinstance(run.model.get_submodule(name), nn.Linear)]
        if not found:
            raise UserError(f"{self.name} adapts hidden nn.Linear layers, and none of them is chosen: give targets")
        return found

    def _adapters(self, run: Run) -> dict[str, nn.Module]:
        made: dict[str, nn.Module] = {}
        for name in self._names:
            base = self._model.get_submodule(name)
            assert isinstance(base, nn.Linear)
            made[name] = LowRank(base, self.rank, self.alpha / self.rank, generator(run.seed, "lora", name))
        return made


def _adapted(run: Run) -> bool:
    assert isinstance(run.model, nn.Module)
    return any(isinstance(module, LowRank) for module in run.model.modules())


def _freeze(run: Run) -> None:
    """Freeze all but the factors of adapters."""
    assert isinstance(run.model, nn.Module)
    for name, parameter in run.model.named_parameters():
        if not name.endswith(("lora_A.weight", "lora_B.weight")):
            parameter.requires_grad_(False)
