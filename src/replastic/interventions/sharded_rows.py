"""Tall matrices that are sharded by rows: each process solves its own rows, and only the Gram matrix is summed up."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic import linalg
from replastic.errors import UserError
from replastic.interventions.parts import Part, outcome
from replastic.interventions.plan import Job
from replastic.interventions.run import Run
from replastic.parallel.distributed import sum_over
from replastic.weights.change import Proposal
from replastic.weights.geometry import LinearView
from replastic.weights.shards import local, sharding, whole_of


def solved_by_rows(job: Job, run: Run) -> Proposal | None:
    """The proposal for a matrix (d_out, d_in), d_out > d_in, that is cut along d_out; one all-reduce of d_in^2 numbers.

    Returns:
        None, in all processes alike, if the weight is to be solved whole: it is another kind of weight, the method
        needs more than the Gram matrix, or the matrix has no full rank, so that directions are to be filled up.

    Raises:
        UserError: The weight holds NaN or Inf, in any process.
    """
    stored = run.store.read(job.entry.name)
    cut, info = sharding(stored), job.infos[0]
    lies_right = isinstance(job.entry.view, LinearView) and not job.entry.view.transposed and not job.whole
    if cut is None or cut.axis != 0 or not lies_right or stored.dtype != torch.float32:
        return None
    if info.d_out <= info.d_in or not job.method.takes_gram(info):
        return None
    rows = local(stored)
    bad, gram = _summed(rows, cut.group)
    if bad:
        raise UserError(
            f"{info.weight} holds {bad} of {stored.numel()} values that are NaN or Inf; nothing was written"
        )
    root = linalg.gram_root(gram)
    if root is None:
        return None
    scale, facts = job.method.from_gram(root, info)
    before, after, distance = root.norms(scale)
    part = Part(info, rows, facts=[facts], sfe=distance**2, norms=(before, after))
    part.normalised_sfe = (distance / before) ** 2
    value = whole_of(root.times(rows).mul_(scale), stored)
    return Proposal(job.entry.name, value, (outcome(part, job.method.name, job.entry.known_by),))


def _summed(rows: Tensor, group: object) -> tuple[int, Tensor]:
    """The number of NaN and Inf in all processes, and the Gram matrix of all rows: both in one all-reduce."""
    wrong = (~torch.isfinite(rows)).sum().double()
    summed = sum_over(group, torch.cat([wrong[None], linalg.gram_of(rows).flatten()]))
    return int(summed[0]), summed[1:].view(rows.shape[1], rows.shape[1])
