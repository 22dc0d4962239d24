"""Our GPT and GPT-2 of transformers: the same folders and the same logits."""

from __future__ import annotations

import pytest
import torch

from replastic import fire_, networks
from replastic.networks._gpt_files import TURNED, load_gpt, save_gpt
from replastic.networks.gpt import Gpt, GptModule

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.integration


@torch.no_grad()
def test_a_model_of_transformers_computes_the_same_here(tmp_path) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=3, n_head=4, n_embd=32, n_positions=24, vocab_size=101)
    theirs = transformers.GPT2LMHeadModel(config).eval()
    for parameter in theirs.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    tokens = torch.randint(101, (5, 24))
    torch.testing.assert_close(load_gpt(tmp_path)(tokens), theirs(tokens).logits, rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
def test_transformers_reads_what_we_write(tmp_path, bias: bool) -> None:
    ours = networks.build(Gpt(depth=2, heads=2, dim=16, bias=bias), (12,), 50, seed=1)
    assert isinstance(ours, GptModule)
    for parameter in ours.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    save_gpt(ours, tmp_path)
    theirs, loading = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    tokens = torch.randint(50, (3, 12))
    torch.testing.assert_close(ours(tokens), theirs.eval()(tokens).logits, rtol=0, atol=1e-5)


def test_fire_cuts_both_alike(tmp_path) -> None:
    ours = networks.build(Gpt(depth=2, heads=2, dim=16, bias=True), (12,), 50, seed=1)
    assert isinstance(ours, GptModule)
    save_gpt(ours, tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path)
    for model in (ours, theirs):
        fire_(model, recipe="paper-gpt")
    mine = ours.state_dict()
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(value.T if name.endswith(TURNED) else value, mine[name])
