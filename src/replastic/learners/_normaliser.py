"""Running normalisation of observations by the mean and variance of all that were seen."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_EPSILON = 1e-8
"""Added to the variance."""
_FIRST_COUNT = 1e-4
"""Observations that the first values, mean 0 and variance 1, count as."""


class RunningNormaliser:
    """Brings each component of an observation to mean 0 and variance 1 over the stream so far.

    It is state of a learner and no part of its model, so that no method touches it: a full reset of the networks keeps
    what is known of the observations. Moments are kept in float64 and merged batch by batch.

    Reference: Chan, Golub and LeVeque (1979) for the merge; first values and epsilon as in the public code of SimBa
    (Lee et al. 2025).

    Args:
        shape: Shape of one observation.
        device: Where observations are normalised.
    """

    def __init__(self, shape: tuple[int, ...], device: str | torch.device = "cpu") -> None:
        self._count = torch.full((), _FIRST_COUNT, dtype=torch.float64, device=device)
        self._mean = torch.zeros(shape, dtype=torch.float64, device=device)
        self._variance = torch.ones(shape, dtype=torch.float64, device=device)
        self._scale()

    def update(self, observations: Tensor) -> None:
        """Count a batch of observations, (B, *shape)."""
        batch = observations.to(self._mean)
        count = self._count + len(batch)
        variance, mean = torch.var_mean(batch, 0, correction=0)
        apart, share = mean - self._mean, len(batch) / count
        self._variance.lerp_(variance, share).addcmul_(apart.square(), share * (1 - share))
        self._mean.addcmul_(apart, share)
        self._count.copy_(count)
        self._scale()

    def __call__(self, observations: Tensor) -> Tensor:
        """(B, *shape) of any dtype to the same in float32."""
        return torch.addcmul(self._shift, observations, self._factor)

    @property
    def mean(self) -> Tensor:
        """Mean of each component, float64."""
        return self._mean

    @property
    def variance(self) -> Tensor:
        """Variance of each component, float64."""
        return self._variance

    def state_dict(self) -> dict[str, Tensor]:
        """Count, mean and variance."""
        return {"count": self._count, "mean": self._mean, "variance": self._variance}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore them."""
        for name, value in self.state_dict().items():
            value.copy_(state[name])
        self._scale()

    def _scale(self) -> None:
        """Take the factor and the shift that normalise an observation."""
        factor = (self._variance + _EPSILON).rsqrt()
        self._factor, self._shift = factor.float(), (-self._mean * factor).float()
