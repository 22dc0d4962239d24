"""One labelled split of an opened set: its choice, its columns, and checks of its labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from replastic.errors import UserError, did_you_mean
from replastic.extras import require


@dataclass(frozen=True)
class Split:
    """Labelled images, still encoded."""

    name: str
    where: str
    """Place and name, for messages."""
    rows: Any
    """A `datasets.Dataset`."""
    image: str
    """Name of the column of images."""
    targets: Tensor
    """(N,) int64, none negative."""
    class_names: tuple[str, ...]
    """Empty if the set does not name its classes."""

    def encoded(self, index: Sequence[int]) -> list[Any]:
        """The images at these rows, each as bytes or as a dictionary with ``bytes`` or a ``path``."""
        stored: list[Any] = self.rows.select(index).with_format("arrow")[:].column(self.image).to_pylist()
        return stored

    def image_name(self, row: int) -> str:
        """Name of an image, for messages."""
        (stored,) = self.encoded([row])
        path = stored.get("path") if isinstance(stored, dict) else None
        return f"{self.where}: image {row}{f' ({path})' if path else ''}"

    def class_name(self, label: int) -> str:
        """Name of a class, for messages."""
        return f"{label} ({self.class_names[label]})" if self.class_names else str(label)

    def check_range(self, classes: int) -> None:
        """Check that all labels are below `classes`.

        Raises:
            UserError: A label is `classes` or more.
        """
        most = int(self.targets.max())
        if most >= classes:
            raise UserError(f"{self.where} has a label {most}, but only {classes} classes, 0 to {classes - 1}")


def labelled(
    splits: Mapping[str, Any], where: str, names: Sequence[str], image: Sequence[str], label: Sequence[str]
) -> Split:
    """The first of the splits `names` that exists and has a label for every image.

    Args:
        splits: All splits, by name.
        where: Their place, for messages.
        names: Names of the split to try, in that order.
        image: Names of the column of images to try, in that order.
        label: Names of the column of labels to try, in that order.

    Raises:
        UserError: There is no such split or column, or none of these splits has a label for every image.
    """
    there = [name for name in names if name in splits]
    if not there:
        raise UserError(f"{where} has no split {_any_of(names, splits)}")
    found = [_split(splits[name], name, f"{where}, split {name}", image, label) for name in there]
    whole = [split for split in found if isinstance(split, Split)]
    if not whole:
        raise UserError(str(found[0]))
    return whole[0]


def _split(rows: Any, name: str, where: str, image: Sequence[str], label: Sequence[str]) -> Split | str:
    """The split, or the problem with its labels in words."""
    datasets = require("datasets", "vision", "reading images")
    image_column, label_column = (_column(rows, where, wanted) for wanted in (image, label))
    feature = rows.features[image_column]
    if isinstance(feature, datasets.Image):
        rows = rows.cast_column(image_column, datasets.Image(decode=False))
    elif getattr(feature, "dtype", "") != "binary" and not (isinstance(feature, dict) and "bytes" in feature):
        raise UserError(f"{where}: column {image_column!r} must hold images, but holds {feature}")
    stored = rows.select_columns([label_column]).with_format("arrow")[:].column(0).combine_chunks()
    if not len(stored):
        raise UserError(f"{where} is empty")
    if not str(stored.type).startswith(("int", "uint", "null")):
        raise UserError(f"{where}: column {label_column!r} holds {stored.type}; labels must be whole numbers from 0")
    targets = torch.from_numpy(stored.cast("int64").fill_null(-1).to_numpy(zero_copy_only=False).copy())
    if (unlabelled := (targets < 0).nonzero().flatten()).numel():
        row = int(unlabelled[0])
        return (
            f"{where}: {len(unlabelled)} of {len(targets)} images have no label in column {label_column!r}; the first "
            f"is image {row} ({stored[row].as_py()}); give a split or a column with labels"
        )
    class_names = getattr(rows.features[label_column], "names", None) or ()
    return Split(name, where, rows, image_column, targets, tuple(class_names))


def _column(rows: Any, where: str, names: Sequence[str]) -> str:
    for name in names:
        if name in rows.column_names:
            return name
    folders = "; a folder of images needs a folder for each class, and two at least: train/cat/1.png, train/dog/1.png"
    hint = "" if len(rows.column_names) > 1 else folders
    raise UserError(f"{where} has no column {_any_of(names, rows.column_names)}{hint}")


def _any_of(names: Sequence[str], known: Any) -> str:
    near = did_you_mean(names[0], known) if len(names) == 1 else ""
    return f"{' or '.join(map(repr, names))}; there are: {', '.join(known) or 'none'}{near}"
