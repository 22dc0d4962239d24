"""The recipes `blocks` and `attention` on language models of transformers, against polar factors by a float64 SVD."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from replastic import fire_

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.integration]
Parts = dict[str, tuple[tuple[int, int], ...]]
"""Rows (first, last) of the matrices in a weight (out, in), by the end of its name."""


def gpt2() -> nn.Module:
    config = transformers.GPT2Config(
        n_embd=16, n_layer=2, n_head=4, n_positions=8, vocab_size=32, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config)


def llama(**given: object) -> nn.Module:
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=24,
        **given,
    )
    return transformers.LlamaForCausalLM(config)


GPT2_BLOCK: Parts = {
    "attn.c_attn": ((0, 16), (16, 32), (32, 48)),
    "attn.c_proj": ((0, 16),),
    "mlp.c_fc": ((0, 64),),
    "mlp.c_proj": ((0, 16),),
}
LLAMA_BLOCK: Parts = {
    "q_proj": ((0, 16),),
    "k_proj": ((0, 8),),
    "v_proj": ((0, 8),),
    "o_proj": ((0, 16),),
    "gate_proj": ((0, 24),),
    "up_proj": ((0, 24),),
    "down_proj": ((0, 16),),
}


@pytest.mark.parametrize(
    ("make", "recipe", "parts"),
    [
        (gpt2, "blocks", GPT2_BLOCK),
        (gpt2, "attention", {"attn.c_attn": ((0, 16), (16, 32))}),
        (llama, "blocks", LLAMA_BLOCK),
        (llama, "attention", {"q_proj": ((0, 16),), "k_proj": ((0, 8),)}),
        (lambda: llama(tie_word_embeddings=True), "blocks", LLAMA_BLOCK),
    ],
)
def test_what_they_touch_and_nothing_else(make: Callable[[], nn.Module], recipe: str, parts: Parts) -> None:
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.1)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    fire_(model, recipe=recipe, solver="exact", scale="modular")
    touched = 0
    for name, after in model.named_parameters():
        cuts = next((cuts for end, cuts in parts.items() if name.removesuffix(".weight").endswith(end)), ())
        turned = make is gpt2 and cuts
        old, new = (value.detach().double().T if turned else value.detach().double() for value in (before[name], after))
        expected: Tensor = old.clone()
        for first, last in cuts:
            u, _, vh = torch.linalg.svd(old[first:last], full_matrices=False)
            expected[first:last] = ((last - first) / old.shape[1]) ** 0.5 * u @ vh
        torch.testing.assert_close(new, expected, atol=2e-5 if cuts else 0.0, rtol=0)
        touched += bool(cuts)
    assert touched == 2 * len(parts)
