"""The method muon: which parameter goes to which optimizer, and rates in a run."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from replastic import methods
from replastic.errors import UserError
from replastic.networks.resnet18 import ResNet18
from replastic.networks.vit_tiny import VitTiny
from replastic.optim import MuonAdam

RunOn = Callable[..., methods.Run]


def split(model: nn.Module, run_on: RunOn, spec: str = "muon", **given: object) -> tuple[set[str], set[str], MuonAdam]:
    method = methods.from_spec(spec)
    method.setup(run_on(model, **given))
    optimizer = method.make_optimizer([{"params": list(model.parameters())}], lambda groups: None)
    assert isinstance(optimizer, MuonAdam)
    names = {p: name for name, p in model.named_parameters()}
    others, matrices = ({names[p] for p in group["params"]} for group in optimizer.param_groups)
    return matrices, others, optimizer


@pytest.mark.parametrize("recipe", ["default", "paper-vit"])
def test_matrices_and_kernels_go_to_muon_whatever_the_recipe(recipe: str, run_on: RunOn) -> None:
    model = ResNet18.reduced().module((3, 32, 32), 10)
    matrices, others, _ = split(model, run_on, recipe=recipe if recipe == "default" else "all")
    assert matrices == {name for name, p in model.named_parameters() if p.dim() > 1 and not name.startswith("head")}
    assert {"head.weight", "head.bias", "stem.norm.weight", "stem.norm.bias", "hidden1.linear.bias"} <= others
    assert "hidden1.linear.weight" in matrices


def test_embeddings_of_a_transformer_go_to_adam(run_on: RunOn) -> None:
    matrices, others, optimizer = split(VitTiny.reduced().module((3, 32, 32), 10), run_on, "muon:lr=0.5,adam_lr=0.25")
    assert {"cls_token", "position", "head.weight", "block1.norm1.weight"} <= others
    assert {"patches.weight", "block1.attention.q.weight", "block1.mlp.fc1.weight"} <= matrices
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.5]
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.95)
    assert optimizer.param_groups[1]["weight_decay"] == 0


def test_a_model_without_hidden_matrices_is_refused(run_on: RunOn) -> None:
    with pytest.raises(UserError, match="muon needs hidden matrices"):
        methods.from_spec("muon").setup(run_on(nn.ModuleDict({"head": nn.Linear(3, 3)})))
