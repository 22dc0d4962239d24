"""The file with the state of a run: tensors and facts in safetensors, with a checksum over all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from replastic.disk import replacing
from replastic.errors import UserError
from replastic.weights.run_state import CHECKSUM, FACTS, checksum


def write(file: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replace the file by tensors and facts (as JSON), with their checksum.

    Raises:
        UserError: The disk is full or the folder cannot be written.
    """
    separate = _separate(tensors)
    text = json.dumps(facts)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as temporary:
            found = checksum(separate, separate.__getitem__, text)
            save_file(separate, temporary, metadata={FACTS: text, CHECKSUM: found})
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot save the state of the run in {file.parent}: {error}") from error


def read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the facts, as they were written.

    Raises:
        ValueError: A tensor or a fact is not what was written, or the file is not one of these.
        OSError, SafetensorError: The file cannot be read.
    """
    with safe_open(file, framework="pt") as opened:
        metadata = opened.metadata() or {}
        names = opened.keys()
        tensors = {name: opened.get_tensor(name) for name in names}
    if CHECKSUM not in metadata:
        raise ValueError("it has no checksum, as states of older versions have none")
    if metadata[CHECKSUM] != checksum(tensors, tensors.__getitem__, metadata.get(FACTS, "")):
        raise ValueError("its content is not what was saved")
    return tensors, json.loads(metadata[FACTS])


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors on the CPU, each in memory of its own, as safetensors wants them.

    Those that are so already are not copied: a replay may take most of the memory.
    """
    taken: set[int] = set()
    separate = {}
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        place = value.untyped_storage().data_ptr()
        separate[name] = value.clone() if place in taken else value
        taken.add(place)
    return separate


def updates(file: Path) -> int | None:
    """How many updates a run had made when the file was written; None if it cannot be read."""
    try:
        return int(read(file)[1]["position"]["step"])
    except (OSError, SafetensorError, ValueError):
        return None
