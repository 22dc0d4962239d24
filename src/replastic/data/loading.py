"""From the text that names a data set to its tensors; the sets loaded last are remembered."""

from __future__ import annotations

import torch

from replastic.data.dataset import Splits
from replastic.data.provider import Provider, get
from replastic.errors import UserError
from replastic.options import read

_REMEMBERED: dict[tuple[Provider, str, str], Splits] = {}
_MOST_REMEMBERED = 2


def from_spec(spec: str) -> Provider:
    """The data set a text describes, not yet loaded: ``name`` or ``name:field=value,field=value``.

    Raises:
        UserError: No such data set or field, a value that is not allowed, or a text that cannot be read.
    """
    kind, given = read(spec, get)
    return kind(**given)


def identity(spec: str) -> str:
    """The spec as it goes into records: what the data are, without where they lie and without what goes unsaid.

    Raises:
        UserError: As `from_spec`.
    """
    return from_spec(spec).identity()


def load(spec: str, device: str | torch.device = "cpu") -> Splits:
    """The splits of a data set, with their tensors on `device`; treat them as read only.

    The sets loaded last are remembered, so that the runs of one process share their memory.

    Args:
        spec: ``name`` or ``name:field=value,field=value``.
        device: Where the tensors go, whole.

    Raises:
        UserError: As `from_spec`; the data are not there, or are not what they should be.
        MissingExtraError: What reads them is not installed.
    """
    provider = from_spec(spec)
    key = (provider, provider.place(), str(device))
    if key not in _REMEMBERED:
        try:
            splits = provider.splits().to(device)
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"{spec} does not fit into the memory of {device}: take fewer images (the data field train=), or "
                "another device"
            ) from error
        while len(_REMEMBERED) >= _MOST_REMEMBERED:
            del _REMEMBERED[next(iter(_REMEMBERED))]
        _REMEMBERED[key] = splits
    return _REMEMBERED[key]
