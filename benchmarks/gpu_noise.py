"""Keep random images under the name of a published set, where REPLASTIC_CACHE says; for dry runs alone."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import torch

from replastic.data import Dataset, Pixels, Splits
from replastic.data.cache import FOLDER, cached
from replastic.data.image_provider import NamedImages
from replastic.data.loading import from_spec


def main(spec: str) -> None:
    """As many images as a spec such as ``cifar10:train=200,test=100`` names, where its set would be looked for."""
    if FOLDER not in os.environ:
        raise SystemExit(f"set {FOLDER} to a folder of its own: noise must not lie among images")
    provider = from_spec(spec)
    assert isinstance(provider, NamedImages)
    cached(provider.name, provider._key(provider._found()), lambda: noise(provider))


def noise(provider: NamedImages) -> Splits:
    """A tenth of the training images is held out, as it is of images."""
    held = provider.train // 10
    rule = Pixels(torch.full((3,), 0.5), torch.full((3,), 0.25))
    counts = (provider.train - held, held, provider.test)
    return Splits(*(replace(part(provider, count), pixels=rule) for count in counts))


def part(provider: NamedImages, count: int) -> Dataset:
    """Random bytes; classes take turns."""
    draw = torch.Generator().manual_seed(count)
    images = torch.randint(256, (count, 3, provider.side, provider.side), generator=draw, dtype=torch.uint8)
    return Dataset(images, torch.arange(count) % provider.classes, provider.classes)


if __name__ == "__main__":
    main(sys.argv[1])
