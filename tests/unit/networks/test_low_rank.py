"""Adapters: their arithmetic by hand."""

from __future__ import annotations

import torch
from torch import nn

from replastic import networks
from replastic.networks._low_rank import LowRank, adapt, train_adapters
from replastic.networks.gpt import Gpt


def test_the_arithmetic_by_hand() -> None:
    base = nn.Linear(5, 7)
    module = LowRank(base, 2, 1.5, torch.Generator().manual_seed(0))
    x = torch.randn(3, 4, 5)
    assert torch.equal(module(x), base(x)), "nothing changes at first"
    assert module.lora_A.weight.abs().max() <= 5**-0.5
    with torch.no_grad():
        module.lora_B.weight.normal_()
    a, b = module.lora_A.weight, module.lora_B.weight
    by_hand = torch.stack([base.weight @ v + base.bias + 1.5 * b @ (a @ v) for v in x.view(-1, 5)])
    torch.testing.assert_close(module(x).view(-1, 7), by_hand)
    torch.testing.assert_close(nn.functional.linear(x, module.merged(), base.bias), module(x))
    assert module.weight is base.weight


def test_every_linear_of_the_blocks_gets_one_and_the_tied_head_none() -> None:
    model, plain = (networks.build(Gpt(depth=2, heads=2, dim=8), (6,), 11, seed=0) for _ in range(2))
    adapt(model, 2, 2.0, seed=3)
    adapted = [name for name, module in model.named_modules() if isinstance(module, LowRank)]
    parts = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert adapted == [f"transformer.h.{i}.{part}" for i in range(2) for part in parts]
    factors = {f"{name}.lora_{f}.weight" for name in adapted for f in "AB"}
    before = plain.state_dict()
    assert model.state_dict().keys() - before.keys() == factors
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    for alone in (True, False):
        train_adapters(model, alone)
        learning = {name for name, p in model.named_parameters() if p.requires_grad}
        assert learning == (factors if alone else dict(plain.named_parameters()).keys())
