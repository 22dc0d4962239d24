"""Small image sets, written by the tests that read them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (6, 5), channels: int = 3) -> np.ndarray:
    """Random bytes (height, width, channels), or (height, width) for one channel."""
    shape = size if channels == 1 else (*size, channels)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, lossless=True)
    return buffer.getvalue()


def write_parquet(
    file: Path,
    images: Sequence[bytes | None],
    labels: Sequence[object],
    columns: tuple[str, str] = ("image", "label"),
) -> None:
    """A Parquet file as the Hub has them, without its metadata."""
    file.parent.mkdir(parents=True, exist_ok=True)
    stored = [{"bytes": image, "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({columns[0]: pa.array(stored, kind), columns[1]: pa.array(labels)}), file)


def write_set(folder: Path, train: int = 20, test: int = 6, classes: int = 2) -> dict[str, np.ndarray]:
    """A whole set of random images with labels 0 1 .. 0 1 .., each split in one file; the pixels written, by split."""
    pixels = {
        "train": np.stack([picture(i) for i in range(train)]),
        "test": np.stack([picture(1000 + i) for i in range(test)]),
    }
    for split, images in pixels.items():
        file = folder / f"{split}-00000-of-00001.parquet"
        write_parquet(file, [encoded(p) for p in images], [i % classes for i in range(len(images))])
    return pixels
