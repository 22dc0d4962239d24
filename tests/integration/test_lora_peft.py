"""Adapters beside peft: the same outputs, trained factors and merged weights; and models of peft itself."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from replastic import fire_, networks
from replastic.errors import UserError
from replastic.networks._low_rank import LowRank
from replastic.networks.gpt import Gpt

peft = pytest.importorskip("peft")
pytestmark = [pytest.mark.integration]
LAYERS = ("c_attn", "c_proj", "c_fc")


def gpt() -> nn.Module:
    return networks.build(Gpt(depth=2, heads=2, dim=8), (6,), 11, seed=0)


def adapted_by_peft() -> nn.Module:
    settings = peft.LoraConfig(r=3, lora_alpha=6, target_modules=list(LAYERS), lora_dropout=0.0)
    model: nn.Module = peft.inject_adapter_in_model(settings, gpt())
    return model


def test_it_computes_and_learns_what_peft_does() -> None:
    theirs, ours = adapted_by_peft(), gpt()
    for name, module in list(ours.named_modules()):
        if name.rpartition(".")[2] in LAYERS:
            made = LowRank(module, 3, 2.0, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
            layer = theirs.get_submodule(name)
            with torch.no_grad():
                layer.lora_A["default"].weight.copy_(made.lora_A.weight)
                made.lora_B.weight.normal_(0, 0.1)
                layer.lora_B["default"].weight.copy_(made.lora_B.weight)
            ours.set_submodule(name, made)
    for name, parameter in ours.named_parameters():
        parameter.requires_grad_(name.endswith(("lora_A.weight", "lora_B.weight")))
    tokens = torch.randint(11, (3, 6))
    optimizers = [torch.optim.SGD([p for p in m.parameters() if p.requires_grad], lr=0.5) for m in (ours, theirs)]
    for _ in range(3):
        outputs = [model(tokens) for model in (ours, theirs)]
        torch.testing.assert_close(*outputs)
        for output, optimizer in zip(outputs, optimizers, strict=True):
            optimizer.zero_grad()
            output.logsumexp(-1).sum().backward()
            optimizer.step()
    for name, module in ours.named_modules():
        if isinstance(module, LowRank):
            layer = theirs.get_submodule(name)
            torch.testing.assert_close(module.lora_A.weight, layer.lora_A["default"].weight)
            torch.testing.assert_close(module.lora_B.weight, layer.lora_B["default"].weight)
            torch.testing.assert_close(module.merged(), layer.base_layer.weight + layer.get_delta_weight("default"))


@pytest.mark.parametrize(("pattern", "part"), [("*lora_A*", "lora_A"), ("*lora_B*", "lora_B")])
def test_fire_on_a_model_of_peft_says_which_part_it_touches(pattern: str, part: str) -> None:
    model = adapted_by_peft()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    with pytest.raises(UserError, match="chooses no weight"):  # the pattern does not say that adapters are meant
        fire_(copy.deepcopy(model), target_modules=["*default*"], recipe="blocks")
    outcome = fire_(model, target_modules=[pattern], recipe="blocks")
    assert outcome.layers
    assert all(part in layer.weight for layer in outcome.layers)


def test_fire_takes_the_base_of_an_adapted_model_once_it_may_be_trained() -> None:
    model = adapted_by_peft()
    with pytest.raises(UserError, match="chooses no weight"):
        fire_(model, recipe="blocks")
    for name, parameter in model.named_parameters():
        if "base_layer" in name:
            parameter.requires_grad_(True)
    outcome = fire_(model, recipe="blocks")
    assert outcome.layers
    assert all("base_layer" in layer.weight for layer in outcome.layers)
    assert all("adapter" in s.reason for s in outcome.skipped if "lora_" in s.weight)
