"""Chooses images of a split, the first few of each class, and puts them in order."""

from __future__ import annotations

import torch
from torch import Tensor

from replastic.data.dataset import within_class
from replastic.data.split import Split
from replastic.errors import UserError


def balanced(split: Split, classes: int, count: int, option: str, *, least: int, every_class: bool) -> Tensor:
    """Rows of the first `count` / `classes` images of each class, ascending; all of them if `count` is 0.

    Args:
        split: The split to choose from.
        classes: Number of classes to use: 0, 1, and so on.
        count: Number of images in all.
        option: Name of the option that set `count`, for messages.
        least: Least number of images of each class for which `count` may ask, unless it is 0.
        every_class: Whether a class without images is an error, also if `count` is 0.

    Raises:
        UserError: `count` cannot be shared out equally, or a class has too few images.
    """
    if every_class and classes > len(split.targets) and not split.class_names:
        raise UserError(
            f"{split.where} has {len(split.targets)} images for {classes} classes, one for each number from 0 to the "
            "largest label of any split: if the labels are identifiers, number the classes 0, 1, 2 and so on instead"
        )
    there = torch.bincount(split.targets[split.targets < classes], minlength=classes)
    if every_class and (missing := int((there == 0).sum())):
        first = int((there == 0).nonzero()[0])
        others = f" (nor have {missing - 1} others)" if missing > 1 else ""
        raise UserError(f"{split.where}: class {split.class_name(first)} has no image{others}")
    if not count:
        return (split.targets < classes).nonzero().flatten()
    wanted, rest = divmod(count, classes)
    worst = int(there.argmin())
    most = int(there[worst])
    fewest = f"class {split.class_name(worst)} of {split.where} has {most}"
    if most < least:
        raise UserError(f"{option}={count} is not possible: each class needs {least} or more, but {fewest}")
    near = " or ".join(str(n * classes) for n in sorted({min(max(n, least), most) for n in (wanted, wanted + 1)}))
    if wanted < least:
        raise UserError(f"{option}={count} asks for fewer than {least} of each of the {classes} classes: try {near}")
    if rest:
        raise UserError(f"{option}={count} is not a multiple of the {classes} classes: try {near}")
    if wanted > most:
        raise UserError(
            f"{option}={count} asks for {wanted} images of each class, but {fewest}: the most is {most * classes}"
        )
    rows = [(split.targets == label).nonzero().flatten()[:wanted] for label in range(classes)]
    return torch.cat(rows).sort().values


def mixed(targets: Tensor) -> Tensor:
    """An order in which classes take turns, for labels (N,) that are sorted by class; else the order as it is.

    Folders of images and some sets of the Hub are sorted by class. Some measures use the first samples alone, and some
    methods make one pass in the order of the data. Both should see every class.
    """
    blocks = 1 + int((targets.diff() != 0).sum())
    if blocks > int(targets.bincount().count_nonzero()):
        return torch.arange(len(targets))
    return within_class(targets).argsort(stable=True)
