"""What the training of a language model is measured against: nanoGPT's way, in float32 and without fused operations."""

from __future__ import annotations

import math
from types import MethodType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from replastic import networks
from replastic.learners import Trainer
from replastic.networks import Network
from replastic.networks.gpt import Attention
from replastic.seeds import derive


def attend(self: Attention, stream: Tensor) -> Tensor:
    """Attention written out: the products, the mask, the softmax; (B, T, dim) to the same shape."""
    batch, length, dim = stream.shape
    q, k, v = (
        part.view(batch, length, self.heads, dim // self.heads).transpose(1, 2)
        for part in self.c_attn(stream).split(dim, dim=2)
    )
    scores = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))
    future = torch.ones(length, length, dtype=torch.bool, device=stream.device).triu(1)
    mixed = scores.masked_fill(future, -math.inf).softmax(dim=-1) @ v
    outputs: Tensor = self.c_proj(mixed.transpose(1, 2).contiguous().view(batch, length, dim))
    return outputs


class PlainGpt:
    """Random windows of a memory-mapped file, float32, AdamW as torch has it by default, gradient accumulation.

    Args:
        network: Sizes of the model; the weights are those that a run of the library with this seed begins with.
        vocabulary: Tokens.
        block: Tokens of a sequence.
        trainer: Batch, parts, step size, decay, clipping and schedule.
        ids: Tokens to train on.
        seed: Of weights and windows.
        updates: For which the schedule is laid out.
        device: Where.
        fused: Leave attention to torch's fused kernel; else it is written out.
    """

    def __init__(
        self,
        network: Network,
        vocabulary: int,
        block: int,
        trainer: Trainer,
        ids: NDArray[np.unsignedinteger],
        seed: int,
        updates: int,
        device: str,
        *,
        fused: bool,
    ) -> None:
        self.trainer, self.ids, self.block, self.updates, self.device = trainer, ids, block, updates, device
        self.model = networks.build(network, (block,), vocabulary, derive(seed, "network")).to(device)
        for module in self.model.modules():
            if isinstance(module, Attention) and not fused:
                module.forward = MethodType(attend, module)  # type: ignore[method-assign]
        matrices = [p for p in self.model.parameters() if p.dim() >= 2]
        rest = [p for p in self.model.parameters() if p.dim() < 2]
        self.optimizer = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": trainer.weight_decay}, {"params": rest, "weight_decay": 0.0}],
            lr=trainer.learning_rate,
            betas=(0.9, trainer.beta2),
        )
        self.draw = torch.Generator().manual_seed(seed)
        self.done = 0

    def batch(self, count: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets (count, block), each a window that begins anywhere."""
        starts = torch.randint(len(self.ids) - self.block, (count,), generator=self.draw).tolist()
        windows = [torch.from_numpy(self.ids[s : s + self.block + 1].astype(np.int64)) for s in starts]
        rows = torch.stack(windows).to(self.device)
        return rows[:, :-1], rows[:, 1:]

    def advance(self, updates: int) -> Tensor:
        """Train on; the losses (updates,), on the CPU."""
        self.model.train()
        parts, losses = self.trainer.accumulate, []
        for _ in range(updates):
            for group in self.optimizer.param_groups:
                group["lr"] = self.trainer.learning_rate * self.trainer.rate(self.done, self.updates)
            total = 0.0
            for _ in range(parts):
                inputs, targets = self.batch(self.trainer.batch_size // parts)
                logits = self.model(inputs)
                loss = nn.functional.cross_entropy(logits.view(-1, logits.size(-1)), targets.reshape(-1)) / parts
                loss.backward()
                total += loss.item()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.trainer.clip_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            losses.append(total)
            self.done += 1
        return torch.tensor(losses)
