"""AdamO: Adam, and beside it a decoupled step of every chosen matrix toward an isometry."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.optim import AdamW

from replastic.errors import UserError


class Cut(Protocol):
    """How one stored weight is cut into batches of matrices."""

    def split(self, weight: Tensor) -> Sequence[Tensor]:
        """The batches, each (batch, d_out, d_in): views of the weight's memory where that is possible, else copies."""

    def write_(self, weight: Tensor, parts: Sequence[Tensor]) -> None:
        """Put changed batches back into the weight; asked for only where `split` has to copy."""


TOGETHER = 1 << 18
"""Elements of equally shaped matrices that are stacked for one product; a larger matrix is taken alone."""
SLICE = 1 << 16
"""Elements of a matrix that are updated at a time, so that the step needs no second copy of it."""
_update: Callable[[AdamW], Any] = inspect.unwrap(AdamW.step)
"""Adam's update alone: torch wraps `step` of a class in the calls of step hooks, which would come twice."""


class AdamO(AdamW):
    r"""Adam whose moments see the task gradient alone, with a decoupled step toward isometry.

    For every matrix W (d_out, d_in), beside Adam's own step and with R(W) = ||G - I||_F^2 of the smaller Gram matrix G
    (W W^T where d_out <= d_in, else W^T W):

        W <- W - isometry_lr * isometry_strength * grad R(W),   grad R(W) = 4 (W W^T - I) W  or  4 W (W^T W - I)

    Then comes the update of `torch.optim.AdamW`: decoupled weight decay and Adam's step. Adam's step does not depend on
    W, so without weight decay both are taken from the same point, as in the paper. With `isometry_strength` 0 the
    result equals that of `torch.optim.Adam` bit for bit.

    Each group of parameters has its own ``isometry_strength`` and ``isometry_lr``. A scheduler of the learning rate
    scales both steps alike: ``isometry_lr`` belongs to the rate that the schedule is a multiple of (``initial_lr`` of
    the group; `OneCycleLR` makes that its maximum over 25). A parameter without a gradient gets neither. Products of
    float16 and bfloat16 weights are made in float32.

    The isometry step is an explicit one, which overshoots where the largest singular value s of a matrix has
    2 * isometry_lr * isometry_strength * (s^2 - 1) > 1: rescale such matrices first (`replastic.fire_`), or take a
    smaller step.

    Reference: Rosseau, Mueller and Nowe (2026), arXiv 2606.09762. The name is taken twice: arXiv 2605.01968 is another
    method. Differs: weight decay (the paper has none), and fused weights and the taps of kernels are cut into matrices.

    Args:
        params: Parameters or groups of them, as for `torch.optim.Adam`.
        lr: Adam's learning rate.
        betas: Adam's decay rates.
        eps: Adam's epsilon.
        weight_decay: Decoupled weight decay, of every parameter.
        isometry_strength: lambda, 0 or more.
        isometry_lr: Step size of the isometry step before a scheduler scales it; None takes `lr`.
        matrices: The parameters that hold matrices, each with its cut; `replastic.matrices` chooses them as a rewrite
            does. None takes every parameter of exactly two axes as one matrix, embeddings and heads included.
        amsgrad: As for `torch.optim.Adam`.
        maximize: Ascend the loss; the isometry step stays a descent.
        foreach: As for `torch.optim.Adam`.
        fused: As for `torch.optim.Adam`.

    Raises:
        ValueError: A number is out of its range.
        UserError: The same for the isometry step, a cut gives something else than batches of matrices, or there is no
            matrix.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        isometry_strength: float = 1e-3,
        isometry_lr: float | None = None,
        matrices: Mapping[Tensor, Cut] | None = None,
        amsgrad: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        fused: bool | None = None,
    ) -> None:
        self._isometry = {"isometry_strength": isometry_strength, "isometry_lr": isometry_lr}
        if matrices is not None and not isinstance(matrices, Mapping):
            raise UserError(
                "matrices must say how each parameter is cut, as replastic.matrices(model) does, got "
                f"{type(matrices).__name__}"
            )
        self._matrices = None if matrices is None else dict(matrices)
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, foreach=foreach, fused=fused)
        self._step_supports_amp_scaling = False
        self.defaults.update(self._isometry)
        if not any(self._blocks(p) for group in self.param_groups for p in group["params"]):
            raise UserError("AdamO found no matrix among its parameters: give matrices=replastic.matrices(model)")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_isometry": self._isometry, "_matrices": self._matrices}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._step_supports_amp_scaling = False  # a scaler that finds infinite gradients then skips both steps
        for group in self.param_groups:
            for name, value in self._isometry.items():
                group.setdefault(name, value)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters. Settings that the group does not name are those of the constructor.

        Raises:
            ValueError: The optimizer has one of them already, or a number is out of its range; nothing was added.
            UserError: The strength or rate of the isometry step is not allowed, or the cut of one of them gives no
                batches of matrices; nothing was added.
        """
        group = {**self._isometry, **param_group}
        for name in ("isometry_strength", "isometry_lr"):
            value = group[name]
            if value is None and name == "isometry_lr":
                continue
            if isinstance(value, bool) or not isinstance(value, Real | Tensor):
                raise UserError(f"{name} must be a number, got {value!r}")
            if not 0 <= float(value) < math.inf:
                raise UserError(f"{name} must be 0 or more and finite, got {float(value)}")
        super().add_param_group(group)
        try:
            for parameter in self.param_groups[-1]["params"]:
                self._check(parameter)
        except UserError:
            self.param_groups.pop()
            raise

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One isometry step and one update of every parameter that has a gradient.

        Args:
            closure: Computes the loss and its gradients again, as for any optimizer of torch.

        Returns:
            The result of the closure, computed before the update; None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rate = _rate(group) * group["isometry_strength"]
            if rate:
                self._isometry_step([p for p in group["params"] if p.grad is not None], rate)
        _update(self)
        return loss

    def _isometry_step(self, parameters: Sequence[Tensor], rate: float) -> None:
        """Take the step in the memory of the parameters, or in copies that are put back."""
        cut = [(p, self._blocks(p)) for p in parameters]
        isometry_step_([block for _, blocks in cut for block in blocks], rate)
        for parameter, blocks in cut:
            if self._matrices is not None and not all(_shares(block, parameter) for block in blocks):
                self._matrices[parameter].write_(parameter.detach(), blocks)

    def _blocks(self, parameter: Tensor) -> Sequence[Tensor]:
        """The matrices in a parameter; empty if it has none."""
        weight = parameter.detach()
        if self._matrices is None:
            return [weight.unsqueeze(0)] if weight.dim() == 2 else []
        cut = self._matrices.get(parameter)
        return [] if cut is None else cut.split(weight)

    def _check(self, parameter: Tensor) -> None:
        for block in self._blocks(parameter):
            if block.dim() != 3:
                raise UserError(
                    f"the cut of a parameter of shape {tuple(parameter.shape)} must give batches of matrices "
                    f"(batch, d_out, d_in), got the shape {tuple(block.shape)}"
                )


def _rate(group: Mapping[str, Any]) -> float:
    """The step size of the isometry step, scaled as a scheduler has scaled the learning rate."""
    lr, own = float(group["lr"]), group["isometry_lr"]
    if own is None:
        return lr
    before = float(group.get("initial_lr", lr))
    return float(own) * lr / before if before else float(own)


def _shares(block: Tensor, parameter: Tensor) -> bool:
    return block.untyped_storage().data_ptr() == parameter.untyped_storage().data_ptr()


def isometry_step_(blocks: Sequence[Tensor], rate: float) -> None:
    """Subtract ``rate * grad ||G - I||_F^2`` of the smaller Gram matrix from batches of matrices, in place.

    Equally shaped batches are multiplied together up to `TOGETHER` elements.

    Args:
        blocks: Batches of matrices (batch, d_out, d_in) that do not overlap.
        rate: Step size times strength.
    """
    for same in _alike(blocks):
        if len(same) == 1:
            _step(same[0], rate)
            continue
        stacked = torch.cat(same)
        _step(stacked, rate)
        for block, new in zip(same, torch.split(stacked, [len(b) for b in same]), strict=True):
            block.copy_(new)


def _alike(blocks: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The blocks in lists of equal matrices, none with more than `TOGETHER` elements unless it is one block alone."""
    kinds: dict[tuple[Any, ...], list[Tensor]] = {}
    for block in blocks:
        kinds.setdefault((block.shape[1:], block.dtype, block.device), []).append(block)
    for same in kinds.values():
        some: list[Tensor] = []
        for block in same:
            if some and sum(b.numel() for b in some) + block.numel() > TOGETHER:
                yield some
                some = []
            some.append(block)
        yield some


def _step(w: Tensor, rate: float) -> None:
    """The step for one batch, a slice at a time: columns of a wide matrix, rows of a tall one, do not mix."""
    wide = w.shape[1] <= w.shape[2]
    short, long = (1, 2) if wide else (2, 1)
    batches = max(1, TOGETHER // max(1, w.shape[1] * w.shape[2]))
    for some in torch.split(w, batches):
        gram = _gram(some, wide)
        width = max(1, SLICE // max(1, len(some) * some.shape[short]))
        for part in torch.split(some, width, dim=long):
            exact = part.to(gram.dtype)
            part.sub_((gram @ exact if wide else exact @ gram).to(part.dtype), alpha=4 * rate)


def _gram(w: Tensor, wide: bool) -> Tensor:
    """The smaller Gram matrix minus the identity, in float32 or wider."""
    exact = w.float() if w.dtype in (torch.float16, torch.bfloat16) else w
    gram = exact @ exact.mT if wide else exact.mT @ exact
    gram.diagonal(dim1=1, dim2=2).sub_(1)
    return gram
