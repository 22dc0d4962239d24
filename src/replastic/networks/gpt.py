"""GPT: a decoder-only transformer that predicts the next token, in the shape of GPT-2."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from replastic.errors import UserError
from replastic.networks._network import Inputs, Network, register
from replastic.options import option

_STD = 0.02
"""Standard deviation of every matrix at initialisation; those that write into the stream have less, see `GptModule`."""


@register("gpt", reference="https://github.com/karpathy/nanoGPT")
@dataclass(frozen=True, kw_only=True)
class Gpt(Network):
    """Token and position embeddings, pre-norm blocks of causal attention and an MLP, a norm, and a tied head.

    The defaults are GPT-2 124M as the FIRE paper trains it: 12 blocks of 12 heads and width 768, no biases, no dropout.
    Blocks have the names of GPT-2 in Hugging Face's `transformers`, so that its checkpoints fit (see `gpt2_files`);
    the weights of Linears are (out, in) here and (in, out) there. Reference: Radford et al. (2019); initial values as
    in nanoGPT, the code that the paper builds on.
    """

    inputs: ClassVar[Inputs] = "tokens"
    recipe: ClassVar[str] = "paper-gpt"

    depth: int = option(12, help="number of blocks", low=1)
    heads: int = option(12, help="attention heads; each has dim / heads units", low=1)
    dim: int = option(768, help="width of a token", low=1)
    bias: bool = option(False, help="biases in Linears and norms, as GPT-2 itself has them")

    def validate(self) -> None:
        """Every head has as many units as the others."""
        if self.dim % self.heads:
            raise UserError(f"{self.name}: dim must be a multiple of heads, got {self.dim} and {self.heads}")

    @classmethod
    def reduced(cls) -> Gpt:
        """About 0.8 million parameters beside the embeddings: one core trains on some 10,000 tokens a second."""
        return cls(depth=4, heads=4, dim=128)

    def module(self, sample_shape: Sequence[int], classes: int) -> nn.Module:
        """`GptModule` for sequences of at most `sample_shape` (block,) tokens out of `classes`."""
        if len(sample_shape) != 1:
            raise UserError(f"{self.name} needs sequences (tokens,), got samples of shape {tuple(sample_shape)}")
        return GptModule(self, block=sample_shape[0], vocabulary=classes)


class GptModule(nn.Module):
    """Blocks ``transformer.wte``, ``wpe``, ``h.0``..., ``ln_f`` and ``lm_head``, whose weight is that of ``wte``.

    At initialisation every matrix is normal with deviation 0.02; those that write into the residual stream, ``c_proj``,
    with 0.02 / sqrt(2 depth).

    Args:
        sizes: Depth, heads, width and biases.
        block: Most tokens of a sequence.
        vocabulary: Number of tokens there are.
    """

    def __init__(self, sizes: Gpt, *, block: int, vocabulary: int) -> None:
        super().__init__()
        self.block, self.vocabulary, self.heads = block, vocabulary, sizes.heads
        layers = [Block(sizes.dim, sizes.heads, sizes.bias) for _ in range(sizes.depth)]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocabulary, sizes.dim),
                "wpe": nn.Embedding(block, sizes.dim),
                "h": nn.ModuleList(layers),
                "ln_f": nn.LayerNorm(sizes.dim, bias=sizes.bias),
            }
        )
        self.lm_head = nn.Linear(sizes.dim, vocabulary, bias=False)
        self.tie()
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                last = name.endswith("c_proj.weight")
                nn.init.normal_(parameter, std=_STD / math.sqrt(2 * sizes.depth) if last else _STD)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def tie(self) -> None:
        """Make the head's weight that of the token embedding."""
        self.lm_head.weight = self.transformer["wte"].weight  # type: ignore[assignment]

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids (B, T) to logits (B, T, vocabulary) of the token that follows each.

        Raises:
            UserError: The sequences are longer than `block`.
        """
        length = tokens.shape[1]
        if length > self.block:
            raise UserError(f"this model reads at most {self.block} tokens at once, got {length}: cut them")
        stream = self.transformer["wte"](tokens) + self.transformer["wpe"](torch.arange(length, device=tokens.device))
        for block in self.transformer["h"]:  # type: ignore[attr-defined]
            stream = block(stream)
        logits: Tensor = self.lm_head(self.transformer["ln_f"](stream))
        return logits


class Block(nn.Module):
    """Causal attention and an MLP, each with a norm before it and added to its input."""

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(dim, bias=bias)
        self.attn = Attention(dim, heads, bias)
        self.ln_2 = nn.LayerNorm(dim, bias=bias)
        self.mlp = nn.Sequential(
            OrderedDict(
                c_fc=nn.Linear(dim, 4 * dim, bias=bias),
                act=nn.GELU(approximate="tanh"),
                c_proj=nn.Linear(4 * dim, dim, bias=bias),
            )
        )

    def forward(self, stream: Tensor) -> Tensor:
        """(B, T, dim) to the same shape."""
        stream = stream + self.attn(self.ln_1(stream))
        outputs: Tensor = stream + self.mlp(self.ln_2(stream))
        return outputs


class Attention(nn.Module):
    """Softmax attention of every token to those before it and itself, in heads of dim / heads units."""

    def __init__(self, dim: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = nn.Linear(dim, 3 * dim, bias=bias)
        self.c_proj = nn.Linear(dim, dim, bias=bias)

    def forward(self, stream: Tensor) -> Tensor:
        """(B, T, dim) to the same shape."""
        q, k, v = (
            torch.unflatten(part, 2, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(stream).chunk(3, dim=2)
        )
        outputs: Tensor = self.c_proj(attend(q, k, v).transpose(1, 2).flatten(2))
        return outputs


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal softmax attention of each head, (B, heads, T, d) to the same shape.

    On a CPU bfloat16 is computed in float32: torch's backward pass of it in bfloat16 takes several times as long.
    """
    if q.dtype == torch.bfloat16 and q.device.type == "cpu":
        with torch.autocast("cpu", enabled=False):
            mixed = functional.scaled_dot_product_attention(q.float(), k.float(), v.float(), is_causal=True)
        return mixed.to(torch.bfloat16)
    return functional.scaled_dot_product_attention(q, k, v, is_causal=True)
