"""Classification of labelled samples: a stream of phases over a data set, cross-entropy, accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from replastic import data, networks
from replastic.data import Dataset, Splits
from replastic.learners._batches import Batch, OnePass, one_pass, shuffled
from replastic.learners._learner import Extent
from replastic.learners._supervised import SupervisedLearner
from replastic.learners._task import Score, Task, register
from replastic.learners._trainer import Trainer
from replastic.networks import Network
from replastic.networks.mlp import Mlp
from replastic.options import completed, option
from replastic.parallel import distributed
from replastic.probes import undisturbed
from replastic.records import key
from replastic.seeds import derive
from replastic.streams import Phase, Stream
from replastic.streams.warm_start import WarmStart

TRAIN_SAMPLES = 5000
"""Most samples of a phase's training data that are scored at its end."""
ACCURACY = key("accuracy")


@register("classification")
@dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """Trains a network to tell the classes of a data set apart, phase by phase of a stream."""

    score: ClassVar[Score] = Score(ACCURACY, "accuracy", bounds=(0.0, 1.0))

    data: str = option("digits", help="data set, or name:field=value,field=value")
    stream: Stream = field(default_factory=WarmStart)
    """The phases."""
    network: Network = field(default_factory=Mlp)
    """The network that is trained."""

    @property
    def phases(self) -> int:
        """As many as the stream has."""
        return len(self.stream)

    @property
    def recipe(self) -> str:
        """The network's."""
        return self.network.recipe

    @property
    def architecture(self) -> str:
        """The network's kind."""
        return type(self.network).__name__

    def extras(self) -> Mapping[str, str]:
        """As the data set's provider says."""
        return data.from_spec(self.data).extras()

    def open(self, device: str = "cpu") -> Splits:
        """The data set's splits."""
        return data.load(self.data, device)

    def learner(self, source: Splits, seed: int, trainer: Trainer, device: str = "cpu") -> Classifier:
        """A new network on this data."""
        return Classifier(self, source, seed, trainer, device)

    def facts(self, source: Splits) -> dict[str, Any]:
        """Samples of each split and a checksum."""
        return dict(source.facts())

    def shortfall(self, source: Splits) -> str:
        """As the data set's provider says."""
        return data.from_spec(self.data).shortfall(source)

    def in_words(self) -> str:
        """Network and data."""
        return f"{self.architecture} on {data.identity(self.data)}"

    def config(self) -> dict[str, Any]:
        """Every setting; of the data what they are, not where they lie."""
        return {**super().config(), "data": data.identity(self.data)}

    def on(self, data: str) -> Classification:
        """The same on other data, or on another part of its own: fields that are not given stay as they are."""
        return replace(self, data=completed(data, self.data))

    def with_network(self, name: str) -> Classification:
        """The network of that name, at full size if this one is, else at its reduced one."""
        kind = networks.get(name)
        return replace(self, network=kind() if self.network == type(self.network)() else kind.reduced())


class Classifier(SupervisedLearner):
    """A network that learns classes. Inputs (B, *sample), targets (B,) int64, outputs (B, classes)."""

    def __init__(self, task: Classification, splits: Splits, seed: int, trainer: Trainer, device: str) -> None:
        sample = splits.train
        super().__init__(task.network, sample.sample_shape, sample.classes, seed, trainer, device)
        self._task, self._splits = task, splits
        self._phases: dict[int, Phase] = {}

    def phase(self, index: int) -> Phase:
        """Phase number `index` of the stream; the last two are remembered, as each may copy much of the data."""
        if index not in self._phases:
            while len(self._phases) >= 2:
                del self._phases[next(iter(self._phases))]
            self._phases[index] = self._task.stream.phase(self._splits, index, derive(self.seed, "stream"))
        return self._phases[index]

    def extent(self, phase: int) -> Extent:
        """As the stream says; scored on each of the phase's evaluation sets, and at the end on training data."""
        found = self.phase(phase)
        samples, size = len(found.train), min(self.trainer.batch_size, len(found.train))
        updates, marks = self.trainer.extent(samples, steps=found.steps, epochs=found.epochs)
        return Extent(
            updates=updates,
            marks=marks,
            pass_updates=max(1, round(samples / size)),
            batch=size,
            scores=tuple(_key(name) for name in found.evaluations),
            announced=found.announced,
            scored=sum(len(part) for part in found.evaluations.values()),
            scored_last=min(samples, TRAIN_SAMPLES),
        )

    def stream(self, phase: int, first: int) -> Iterator[Batch]:
        """Shuffled passes over the phase's training data."""
        return shuffled(self.phase(phase).train, self.trainer.batch_size, first, "batches", phase, seed=self.seed)

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy, in nats."""
        return functional.cross_entropy(outputs, targets)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of each sample."""
        return functional.cross_entropy(outputs, targets, reduction="none")

    def evaluate(self, phase: int, *, last: bool = False) -> dict[str, float]:
        """Accuracy on each evaluation set; at the end of a phase on its training data, too."""
        found = self.phase(phase)
        scores = {_key(name): self.accuracy(part) for name, part in found.evaluations.items()}
        if last:
            scores[key("train_accuracy")] = self.accuracy(_spread(found.train, TRAIN_SAMPLES))
        return scores

    def batches(self, phase: int) -> Iterable[Batch]:
        """One pass over the phase's training data, in its order unless another is asked for."""
        return OnePass(self.phase(phase).train, self.trainer.batch_size)

    def probe(self, phase: int, samples: int) -> Batch:
        """The first samples of the phase's training data."""
        return self.phase(phase).train.batch(slice(samples))

    def rehearse(self) -> int:
        """Score one chunk of training data."""
        data = self.phase(0).train.first(self.trainer.evaluation_chunk)
        self.accuracy(data)
        return len(data)

    @torch.no_grad()
    def accuracy(self, data: Dataset) -> float:
        """Share of samples whose largest output is the target's, in [0, 1]; several processes share the work.

        Raises:
            LostProcessError: Another process has gone.
        """
        correct = torch.zeros((), dtype=torch.int64, device=data.targets.device)
        mine = one_pass(data, self.forward.chunk, distributed.rank(), distributed.world_size())
        with undisturbed(self.model):
            for inputs, targets in mine:
                correct += (self.forward(inputs).argmax(1) == targets).sum()
        return int(distributed.total(correct)) / len(data)


def _key(name: str) -> str:
    """The record key of the accuracy on an evaluation set."""
    return f"{ACCURACY}_{name}" if name else ACCURACY


def _spread(data: Dataset, most: int) -> Dataset:
    """All samples, or so many spread evenly over their order."""
    count = len(data)
    return data if count <= most else data.take(torch.arange(most) * count // most)
