"""GPT: its size by hand, causality, initial values, and folders of Hugging Face's GPT-2."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from replastic import networks
from replastic.errors import UserError
from replastic.networks._gpt_files import load_gpt, save_gpt
from replastic.networks.gpt import Gpt, GptModule, attend

TINY = Gpt(depth=2, heads=2, dim=8)


def tiny(bias: bool = False, seed: int = 0) -> GptModule:
    model = networks.build(Gpt(depth=2, heads=2, dim=8, bias=bias), (6,), 11, seed=seed)
    assert isinstance(model, GptModule)
    return model


def test_the_defaults_are_gpt2_124m_by_hand() -> None:
    with torch.device("meta"):
        model = Gpt().module((1024,), 50304)
    blocks = 12 * (12 * 768**2 + 2 * 768)
    assert sum(p.numel() for p in model.parameters()) == (50304 + 1024) * 768 + blocks + 768


def test_a_token_sees_those_before_it_alone() -> None:
    model, tokens = tiny(), torch.randint(11, (3, 6))
    other = tokens.clone()
    other[:, 4] = (other[:, 4] + 1) % 11
    seen, changed = model(tokens), model(other)
    assert torch.equal(seen[:, :4], changed[:, :4])
    assert not torch.equal(seen[:, 4:], changed[:, 4:])


def test_initial_values_are_those_of_nanogpt() -> None:
    model = networks.build(Gpt(depth=3, heads=2, dim=64, bias=True), (16,), 500, seed=0)
    for name, value in model.state_dict().items():
        if name.endswith("c_proj.weight"):
            assert value.std() == pytest.approx(0.02 / math.sqrt(6), rel=0.05)
        elif value.dim() == 2:
            assert value.std() == pytest.approx(0.02, rel=0.08)
        else:
            assert torch.equal(value, torch.full_like(value, float("weight" in name)))


@pytest.mark.parametrize("bias", [False, True])
def test_a_saved_model_computes_the_same_after_loading(tmp_path, bias: bool) -> None:
    model, tokens = tiny(bias), torch.randint(11, (3, 6))
    save_gpt(model, tmp_path / "model")
    again = load_gpt(tmp_path / "model")
    assert torch.equal(model(tokens), again(tokens))
    assert again.lm_head.weight is again.transformer["wte"].weight
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert stored["transformer.h.0.mlp.c_fc.weight"].shape == (8, 32)


def test_files_of_the_hub_name_tensors_without_the_prefix_and_hold_masks(tmp_path) -> None:
    model = tiny(bias=True)
    save_gpt(model, tmp_path)
    stored = {n.removeprefix("transformer."): v for n, v in load_file(tmp_path / "model.safetensors").items()}
    stored["h.0.attn.bias"] = torch.ones(1, 1, 6, 6)
    save_file(stored, tmp_path / "model.safetensors")
    tokens = torch.randint(11, (2, 5))
    assert torch.equal(load_gpt(tmp_path)(tokens), model(tokens))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llama"}, "model_type must be 'gpt2'"),
        ({"n_embd": 16}, "has the shape"),
        ({"n_layer": 3}, "lacks transformer.h.2"),
        ({"n_layer": 1}, "has transformer.h.1"),
        ({"n_layer": True}, "n_layer must be a whole number"),
        ({"n_inner": 7}, "n_inner must be 4 x n_embd"),
        ({"scale_attn_by_inverse_layer_idx": True}, "must be False, got True"),
    ],
)
def test_a_folder_that_is_no_gpt2_says_so(tmp_path, change, words: str) -> None:
    save_gpt(tiny(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=words):
        load_gpt(tmp_path)


def test_wrong_input_says_what_to_do(tmp_path) -> None:
    with pytest.raises(UserError, match="multiple of heads"):
        Gpt(heads=5, dim=12)
    with pytest.raises(UserError, match="at most 6 tokens"):
        tiny()(torch.zeros(1, 7, dtype=torch.long))
    with pytest.raises(UserError, match="sequences"):
        networks.build(TINY, (1, 8, 8), 10, seed=0)
    with pytest.raises(UserError, match="no folder of a GPT-2"):
        load_gpt(tmp_path)


def test_bfloat16_on_a_cpu_attends_in_float32() -> None:
    """The outputs are those of float32 but for the rounding of queries, keys and values, and so are the gradients."""
    q, k, v = (torch.randn(2, 3, 5, 4, dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    exact = [part.detach().double().requires_grad_() for part in (q, k, v)]
    scores = exact[0] @ exact[1].mT / 2.0
    scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
    expected = scores.softmax(-1) @ exact[2]
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(q, k, v)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-6)
    weights = torch.randn_like(expected)
    torch.autograd.backward(found, weights.to(torch.bfloat16))
    torch.autograd.backward(expected, weights.to(torch.bfloat16).double())
    for part, true in zip((q, k, v), exact, strict=True):
        torch.testing.assert_close(part.grad.double(), true.grad, rtol=2**-8, atol=1e-4)
