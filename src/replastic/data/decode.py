"""Decodes images to bytes of pixels, with several threads for large images."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from replastic.data.split import Split
from replastic.errors import UserError
from replastic.extras import require

CHUNK = 256
SMALL = 128 * 128
"""Up to this many pixels, one thread decodes all images. More threads would not help: Python's own work takes longer
than the decoder's, and threads share only the latter."""
MODES = {1: "L", 3: "RGB"}


def decode(split: Split, rows: Tensor, channels: int, size: tuple[int, int]) -> Tensor:
    """The images at `rows`, grey for 1 channel or RGB for 3; transparency is dropped.

    Args:
        split: The split that holds them.
        rows: (N,) positions in the split.
        channels: 1 or 3.
        size: Height and width that every image must have.

    Returns:
        (N, channels, height, width) uint8.

    Raises:
        UserError: An image cannot be decoded or has another size; the message names it.
    """
    pixels = torch.empty(len(rows), channels, *size, dtype=torch.uint8)
    array = pixels.numpy()

    def fill(start: int) -> int:
        chosen = rows[start : start + CHUNK].tolist()
        for at, (row, stored) in enumerate(zip(chosen, split.encoded(chosen), strict=True), start):
            values = _pixels(stored, MODES[channels], split, row)
            if values.shape[:2] != size:
                raise UserError(
                    f"{split.image_name(row)} is {values.shape[0]} pixels high and {values.shape[1]} wide, the first "
                    f"training image {size[0]} and {size[1]}: all images of a set must have one size"
                )
            array[at] = values if channels == 1 else values.transpose(2, 0, 1)
        return len(chosen)

    small = size[0] * size[1] <= SMALL
    with (
        ThreadPoolExecutor(1 if small else os.cpu_count()) as pool,
        tqdm(total=len(rows), desc=f"decoding {split.name}", unit="image", leave=False, disable=None) as bar,
    ):
        for done in pool.map(fill, range(0, len(rows), CHUNK)):
            bar.update(done)
    return pixels


def image_size(split: Split, row: int) -> tuple[int, int]:
    """Height and width of one image.

    Raises:
        UserError: The image cannot be decoded.
    """
    (stored,) = split.encoded([row])
    height, width = _pixels(stored, "L", split, row).shape
    return height, width


def _pixels(stored: Any, mode: str, split: Split, row: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    pillow = require("PIL.Image", "vision", "decoding images")
    encoded, path = (stored.get("bytes"), stored.get("path")) if isinstance(stored, dict) else (stored, None)
    if encoded is None and path is None:
        raise UserError(f"{split.image_name(row)} is empty")
    try:
        with pillow.open(path if encoded is None else BytesIO(encoded)) as image:
            deep = image.mode.startswith(("I", "F"))
            values = np.asarray(image.convert(mode))
    except Exception as error:  # Pillow raises what its decoders raise, of a dozen types
        raise UserError(f"{split.image_name(row)} cannot be decoded: {error}") from error
    if deep:
        raise UserError(f"{split.image_name(row)} has more than 8 bits per channel: convert the images to 8 bits first")
    return values
