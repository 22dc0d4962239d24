"""What the training loop is measured against: a DataLoader that decodes every image whenever it is asked for."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as Samples

from replastic.data import Dataset
from replastic.experiments import vision
from replastic.learners import Trainer
from replastic.learners._batches import Batch, shuffled
from replastic.networks import build
from replastic.seeds import derive
from replastic.training import Protocol


class Files(Samples[tuple[Tensor, int]]):
    """PNG files in memory, as the Hub stores CIFAR; decoded, made a tensor and normalised one by one."""

    def __init__(self, images: Dataset) -> None:
        assert images.pixels is not None, "only images stored as bytes can be made files"
        self.files = [encode(image) for image in images.inputs.cpu()]
        self.targets = images.targets.tolist()
        self.mean, self.std = (value.cpu().view(-1, 1, 1) for value in (images.pixels.mean, images.pixels.std))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """The image as float32 (C, H, W), by the steps that vision transforms are usually composed of."""
        image = Image.open(io.BytesIO(self.files[index])).convert("RGB")
        scaled = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div(255)
        return scaled.sub_(self.mean).div_(self.std), self.targets[index]


def encode(image: Tensor) -> bytes:
    """An image (3, H, W) of bytes as a PNG file."""
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, format="png")
    return file.getvalue()


class Plain:
    """The usual way to train: float32, contiguous, Adam and a schedule as torch has them.

    One DataLoader serves all its `updates`, so that its workers start once, as in a loop that keeps them.
    """

    def __init__(
        self, protocol: Protocol, images: Dataset, files: Files, seed: int, updates: int, device: str, workers: int
    ) -> None:
        self.trainer, self.device = protocol.trainer, device
        pinned = torch.device(device).type == "cuda"
        order = list(islice(batches(images, self.trainer, seed), updates))
        self.loader: Iterator[Any] = iter(
            DataLoader(files, batch_sampler=order, num_workers=workers, pin_memory=pinned)
        )
        network_seed = derive(seed, "network")
        self.model = build(
            vision.classification(protocol).network, images.sample_shape, images.classes, network_seed
        ).to(device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.trainer.learning_rate)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: self.trainer.rate(step, updates))

    def advance(self, updates: int) -> Tensor:
        """Train on; the losses (updates,), on the CPU."""
        self.model.train()
        losses = []
        for inputs, targets in islice(self.loader, updates):
            loss = nn.functional.cross_entropy(self.model(inputs.to(self.device)), targets.to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.trainer.clip_norm)
            self.optimizer.step()
            self.schedule.step()
            losses.append(loss.detach())
        return torch.stack(losses).cpu()

    def close(self) -> None:
        """End the workers, which processes that are forked later would inherit."""
        self.loader = iter(())


def stream(images: Dataset, trainer: Trainer, seed: int) -> Iterator[Batch]:
    """Batches of all the images, without end, in the order in which both loops take them."""
    return shuffled(images, trainer.batch_size, 0, "batches", 0, seed=seed)


def batches(images: Dataset, trainer: Trainer, seed: int) -> Iterator[list[int]]:
    """Sample numbers of each batch of `stream`."""
    numbers = Dataset(torch.arange(len(images)), images.targets.cpu(), images.classes)
    for chosen, _ in stream(numbers, trainer, seed):
        yield chosen.tolist()
