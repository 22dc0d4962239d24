"""Advantages of actions from rewards and values: the estimator of Schulman et al. (2016)."""

from __future__ import annotations

import torch
from torch import Tensor


def advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    ended: Tensor,
    *,
    gamma: float,
    trace: float,
) -> Tensor:
    """Generalised advantage estimation: the sum over k of (gamma trace)^k delta_{t+k}, up to the end of the episode.

    delta_t = r_t + gamma V(s_{t+1}) - V(s_t), where V of what follows a terminated step is 0. What follows a step that
    was cut off has its value, and the sum ends there as well.

    Args:
        rewards: (T, N), of T steps of N copies.
        values: (T, N), V(s_t).
        next_values: (T, N), V(s_{t+1}) of the observation that followed, also where an episode ended.
        terminated: (T, N) bool, nothing follows.
        ended: (T, N) bool, the next step is of another episode.
        gamma: Discount.
        trace: Lambda, from 0 (one step) to 1 (the whole return).

    Returns:
        (T, N), of the dtype of `rewards`.

    Reference: Schulman et al. (2016), https://arxiv.org/abs/1506.02438, equation 16.
    """
    deltas = rewards + gamma * next_values.masked_fill(terminated, 0.0) - values
    kept = gamma * trace * (~ended).to(deltas.dtype)
    found = torch.empty_like(deltas)
    ahead = torch.zeros_like(deltas[0])
    for step in range(len(deltas) - 1, -1, -1):
        ahead = torch.addcmul(deltas[step], kept[step], ahead)
        found[step] = ahead
    return found
