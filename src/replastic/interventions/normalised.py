"""The weights of a run whose scale is without effect on the function, because a normalisation layer follows them."""

from __future__ import annotations

from replastic.errors import UserError
from replastic.interventions.run import Run
from replastic.probes.normalised import normalised_weights
from replastic.weights.entries import WeightEntry
from replastic.weights.naming import strip_prefixes


def normalised_names(asked_by: str, run: Run) -> frozenset[str]:
    """Names of the weights whose output goes into a normalisation layer and nowhere else, seen on one batch of the run.

    Args:
        asked_by: The method that asks, for messages.
        run: With a model, batches and a loss.

    Raises:
        UserError: One of these is missing, there is no batch, or the model does not run on it.
    """
    if run.model is None or run.batches is None or run.loss_fn is None:
        raise UserError(
            f"{asked_by} looks for normalisation layers: it needs the live model, batches=<data> and loss_fn="
        )
    sample = next(iter(run.batches()), None)
    if sample is None:
        raise UserError(f"{asked_by} looks for normalisation layers with a batch of the data, but there is none")
    return frozenset(map(strip_prefixes, normalised_weights(run.model, sample, run.loss_fn)))


def is_normalised(entry: WeightEntry, names: frozenset[str]) -> bool:
    """Whether a stored weight, under any of its names, is one of them."""
    return bool(names & {entry.name, *entry.aliases})


def normalised_share(asked_by: str, run: Run) -> float:
    """Share of the trainable matrices and kernels, counted as tensors, that lie before a normalisation layer.

    Raises:
        UserError: As `normalised_names`.
    """
    names = normalised_names(asked_by, run)
    found = [is_normalised(e, names) for e in run.store.entries() if e.view is not None and e.trainable]
    return sum(found) / max(1, len(found))
