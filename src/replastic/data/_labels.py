"""Which images of a split are used, the first so many of each class, and in which order."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic.data._dataset import within_class
from replastic.data._split import Split
from replastic.errors import UserError


def balanced(split: Split, classes: int, count: int, option: str, *, every_class: bool) -> Tensor:
    """Rows of the first `count` / `classes` images of each class, ascending; all of them if `count` is 0.

    Args:
        split: Where from.
        classes: How many are used: those from 0 on.
        count: How many images in all.
        option: Name of the option that set `count`, for messages.
        every_class: Refuse a class without image even if all rows are wanted.

    Raises:
        UserError: `count` cannot be shared out equally, or a class has too few images.
    """
    if count % classes:
        below = count - count % classes
        near = " or ".join(str(n) for n in (below, below + classes) if n)
        raise UserError(f"{option}={count} is no multiple of the {classes} classes: try {near}")
    wanted = count // classes
    there = torch.bincount(split.targets, minlength=classes)[:classes]
    if every_class and (missing := int((there == 0).sum())):
        first = int((there == 0).nonzero()[0])
        others = f" (nor have {missing - 1} others)" if missing > 1 else ""
        raise UserError(f"{split.where}: class {split.class_name(first)} has no image{others}")
    if wanted and int(there.min()) < wanted:
        worst = int(there.argmin())
        raise UserError(
            f"{option}={count} asks for {wanted} images of each class, but class {split.class_name(worst)} of "
            f"{split.where} has {int(there[worst])}: the most is {int(there.min()) * classes}"
        )
    if not wanted:
        return (split.targets < classes).nonzero().flatten()
    rows = [(split.targets == label).nonzero().flatten()[:wanted] for label in range(classes)]
    return torch.cat(rows).sort().values


def mixed(targets: Tensor) -> Tensor:
    """An order in which classes take turns, for labels (N,) that stand class by class; else the order as it is.

    Folders of images and some sets of the Hub stand class by class. Measures that look at the first samples, and
    methods that make one pass in the order of the data, are to see every class.
    """
    blocks = 1 + int((targets.diff() != 0).sum())
    if blocks > int(targets.bincount().count_nonzero()):
        return torch.arange(len(targets))
    return within_class(targets).argsort(stable=True)
