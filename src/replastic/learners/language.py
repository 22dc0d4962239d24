"""Language modelling: one corpus, then a mixture; the loss on both, in nats and in bits per byte."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from replastic import networks
from replastic.data import corpus
from replastic.data.mixture import Mixture
from replastic.data.token_file import TokenFile
from replastic.data.tokens import tokenise, tokenizer_for
from replastic.errors import UserError
from replastic.learners._batches import Batch
from replastic.learners._forward import Forward
from replastic.learners._learner import Descend, Extent
from replastic.learners._sharded import shard, unsharded
from replastic.learners._supervised import SupervisedLearner
from replastic.learners._task import Score, Task, register
from replastic.learners._texts import Texts
from replastic.learners._trainer import Trainer
from replastic.learners._validation import Validation
from replastic.networks import Inputs, Network
from replastic.networks._low_rank import adapt, train_adapters
from replastic.networks.gpt import Gpt
from replastic.options import option
from replastic.probes.trainee import Trainee, copied
from replastic.records import key
from replastic.seeds import derive

LOSS_NEW, LOSS_OLD = key("loss_new"), key("loss_old")
LEARNED, LEARNED_LAST = key("plasticity_area"), key("plasticity_loss")
THIRD = 2
"""Number of the phase of fine-tuning."""
ADAPTER_SCALE = 2.0
"""Factor on the product of an adapter: alpha is twice the rank."""
_POINTS = 5
"""Evaluations of a copy that learns the held-out corpus, beside the one before it learns."""
_PADDED = 64
"""The vocabulary is rounded up to a multiple of this, as the products of the head are faster then."""


@register("language", reference="https://arxiv.org/abs/2602.08040")
@dataclass(frozen=True, kw_only=True)
class Language(Task):
    """Trains a language model on one corpus, and then on a mixture of corpora; a third phase may fine-tune it.

    Reference: FIRE (Han et al., ICLR 2026), section 4.2.
    """

    score: ClassVar[Score] = Score(
        LOSS_NEW, "validation loss on the new corpus, nats", higher_is_better=False, bounds=(0.0, None)
    )
    axis: ClassVar[tuple[str, str]] = ("tokens", "tokens")
    old: ClassVar[Score] = Score(
        LOSS_OLD, "validation loss on the first corpus, nats", higher_is_better=False, bounds=(0.0, None)
    )
    """The score at which the first phase aims."""

    first: str = option("wikitext2", help="corpus of the first phase, or name:field=value,field=value")
    second: str = option(
        "english_novels+wikitext2", help="corpora of the second phase, joined by +; the first of them is the new one"
    )
    shares: tuple[float, ...] = option((), help="share of each corpus in the second phase; none: by their tokens")
    tokenizer: str = option(
        "bpe:size=2048", help="gpt2, file:source=FILE.json, or bpe:size=N, which is trained on the first corpus"
    )
    block: int = option(256, help="tokens that are predicted in a sequence", low=1)
    first_updates: int = option(1000, help="optimizer updates of the first phase", low=1)
    first_schedule: int = option(
        0,
        help="updates for which the step size of the first phase is planned; more than first_updates ends it "
        "mid-schedule, at a high step size; 0: as many as the phase has",
        low=0,
    )
    first_weight_decay: float | None = option(
        None, help="weight decay of the first phase; none: that of the others, --weight-decay", low=0
    )
    updates: int = option(1000, help="optimizer updates of the second phase", low=1)
    third: str = option("", help="corpus of a third phase, which is the new one then; none: two phases")
    third_updates: int = option(300, help="optimizer updates of the third phase", low=1)
    adapters: int = option(
        0,
        help="rank of the adapters (LoRA) that the third phase trains, beside frozen weights; 0: it trains all",
        low=0,
    )
    evaluations: int = option(10, help="evaluations in each phase, evenly spaced", low=1)
    validation: int = option(64, help="validation sequences of each corpus, evenly spaced; 0: all", low=0)
    plasticity_corpus: str = option(
        "", help="corpus that no phase trains on: copies learn it after boundaries and at the ends of phases; none: no"
    )
    plasticity_updates: int = option(50, help="updates of such a copy", low=_POINTS)
    sharded: bool = option(
        False,
        help="under torchrun each process keeps a part of weights, gradients and optimizer state (FSDP2), not a copy; "
        "the numbers are the same but for rounding",
    )
    network: Network = field(default_factory=lambda: Gpt.reduced())
    """The network that is trained."""

    def validate(self) -> None:
        """A schedule is as long as its phase, or longer; shares are as many as corpora."""
        if self.first_schedule and self.first_schedule < self.first_updates:
            raise UserError(
                f"first_schedule must be 0 or at least first_updates, {self.first_updates}, got {self.first_schedule}"
            )
        if self.adapters and (not self.third or self.sharded):
            why = "there is none: give third" if not self.third else "its weights are sharded: leave out one of them"
            raise UserError(f"adapters are trained in the third phase, and {why}")
        if self.shares and len(self.shares) != len(self.corpora):
            raise UserError(f"shares must name one share for each of {self.second}, got {len(self.shares)}")

    @property
    def corpora(self) -> tuple[str, ...]:
        """Specs of the corpora of the second phase."""
        return tuple(part.strip() for part in self.second.split("+"))

    @property
    def phases(self) -> int:
        """Two, or three."""
        return 3 if self.third else 2

    def judged_by(self, phase: int) -> Score:
        """The loss on the corpus that is new in the phase: in the first one the first corpus."""
        return self.score if phase else self.old

    @property
    def recipe(self) -> str:
        """The network's."""
        return self.network.recipe

    @property
    def architecture(self) -> str:
        """The network's kind."""
        return type(self.network).__name__

    def extras(self) -> Mapping[str, str]:
        """The packages that read and tokenise text."""
        return {"language": "a language model"}

    def in_words(self) -> str:
        """Network and corpora."""
        then = ["+".join(map(self._identity, self.corpora)), *([self._identity(self.third)] if self.third else [])]
        return f"{self.architecture} on {self._identity(self.first)}, then {', then '.join(then)}"

    def config(self) -> dict[str, Any]:
        """Every setting; of the corpora what they are, not where they lie."""
        second = "+".join(map(self._identity, self.corpora))
        found = {**super().config(), "first": self._identity(self.first), "second": second}
        if self.first_weight_decay is None:
            del found["first_weight_decay"]
        for corpus_of, prefix in (
            (self.plasticity_corpus, "plasticity_"),
            (self.third, "third"),
            (self.third, "adapters"),
        ):
            if not corpus_of:
                found = {name: value for name, value in found.items() if not name.startswith(prefix)}
        parts = {"plasticity_corpus": self.plasticity_corpus, "third": self.third}
        return {**found, **{name: self._identity(spec) for name, spec in parts.items() if spec}}

    def open(self, device: str = "cpu") -> Texts:
        """Files of tokens, made now or earlier, mapped into memory and shared by the runs of a process."""
        first = corpus.from_spec(self.first)
        by = tokenizer_for(self.tokenizer, first)
        second = tuple(tokenise(corpus.from_spec(s), by) for s in self.corpora)
        held_out = tokenise(corpus.from_spec(self.plasticity_corpus), by) if self.plasticity_corpus else None
        third = tokenise(corpus.from_spec(self.third), by) if self.third else None
        return Texts(by, tokenise(first, by), second, held_out, third)

    def facts(self, source: Texts) -> dict[str, Any]:
        """Tokens and checksum of each file."""
        return source.facts()

    def learner(self, source: Texts, seed: int, trainer: Trainer, device: str = "cpu") -> LanguageModel:
        """A new model."""
        return LanguageModel(self, source, seed, trainer, device)

    def with_network(self, name: str) -> Language:
        """The network of that name, at full size if this one is, else at its reduced one."""
        kind = networks.get(name)
        return replace(self, network=kind() if self.network == type(self.network)() else kind.reduced())

    @staticmethod
    def _identity(spec: str) -> str:
        return corpus.from_spec(spec).identity()


class LanguageModel(SupervisedLearner):
    """A model that predicts the next token. Inputs and targets (B, block) int64, outputs (B, block, vocabulary)."""

    inputs: ClassVar[Inputs] = "tokens"

    def __init__(self, task: Language, texts: Texts, seed: int, trainer: Trainer, device: str) -> None:
        self._task, self._texts = task, texts
        vocabulary = -(-texts.tokenizer.size // _PADDED) * _PADDED
        super().__init__(task.network, (task.block,), vocabulary, seed, trainer, device)
        self._validation = Validation(task.block, task.validation, self._pair, self.criterion)
        self._mixtures: dict[tuple[int, float], Mixture] = {}
        self._replayed = 0.0
        self._tokens = 0
        if task.sharded:
            shard(self.model)

    def mixture(self, phase: int) -> Mixture:
        """The sequences of a phase, without those that are replayed."""
        return self._mixture(phase, 0.0)

    def replay(self, share: float) -> None:
        """Mix so many sequences of the first corpus among those of later phases; their own keep their proportions."""
        self._replayed = share

    def _mixture(self, phase: int, replayed: float) -> Mixture:
        """The sequences of a phase with a share of old ones."""
        key = phase, replayed
        if key not in self._mixtures:
            third = () if self._texts.third is None else (self._texts.third,)
            tokens = ((self._texts.first,), self._texts.second, third)[phase]
            shares = self._task.shares if phase == 1 else None
            files, draw = [t.train for t in tokens], derive(self.seed, "stream", phase)
            found = Mixture(files, shares or None, self._task.block, draw)
            if replayed:
                mixed = [*((1.0 - replayed) * share for share in found.shares), replayed]
                found = Mixture([*files, self._texts.first.train], mixed, self._task.block, draw)
            self._mixtures[key] = found
        return self._mixtures[key]

    def extent(self, phase: int) -> Extent:
        """As the task says; scored at even distances."""
        task = self._task
        updates, size = (task.first_updates, task.updates, task.third_updates)[phase], self.trainer.batch_size
        marks = {max(1, updates * i // task.evaluations) for i in range(1, task.evaluations + 1)}
        windows = sum(len(self._validation.starts(file)) for file in self._scored().values())
        return Extent(
            updates=updates,
            marks=tuple(sorted(marks)),
            pass_updates=max(1, sum(f.facts.tokens for f in self.mixture(phase).files) // (size * task.block)),
            batch=size,
            scores=tuple(key(f"{measure}_{which}") for measure in ("loss", "bits") for which in self._scored()),
            scored=windows,
            examined=self._learning_cost(),
            schedule=0 if phase else task.first_schedule,
            weight_decay=None if phase else task.first_weight_decay,
        )

    def begin(self, phase: int, done: int) -> None:
        """Seek the place; adapters learn in the third phase, alone."""
        super().begin(phase, done)
        if self._task.adapters:
            train_adapters(self.model, alone=phase == THIRD)

    def update(self, descend: Descend) -> Tensor:
        """Train on the next batch, and count its tokens."""
        self._tokens += self.trainer.batch_size * self._task.block
        return super().update(descend)

    def stream(self, phase: int, first: int) -> Iterator[Batch]:
        """Sequences of the phase's mixture by their number, old ones among them in a phase after the first."""
        mixture, size = self._mixture(phase, self._replayed if phase else 0.0), self.trainer.batch_size
        number = first * size
        while True:
            yield self._pair(mixture.batch(number, size))
            number += size

    def criterion(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the next token, in nats."""
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def evaluate(self, phase: int, *, last: bool = False) -> dict[str, float]:
        """Validation loss on the new corpus and on the old one, in nats a token and in bits a byte of text.

        Where a third corpus is the new one, ``between`` is the one that was new in the second phase.
        """
        task = self._task
        losses = {
            which: self._validation.loss_of_all(file, self.forward, sharded=task.sharded)
            for which, file in self._scored().items()
        }
        per_bit = {which: math.log(2) * file.bytes_per_token for which, file in self._scored().items()}
        bits = {key(f"bits_{which}"): loss / per_bit[which] for which, loss in losses.items()}
        return {key(f"loss_{which}"): loss for which, loss in losses.items()} | bits

    def examine(self, phase: int) -> dict[str, float]:
        """Plasticity itself: a copy learns the held-out corpus for a fixed number of updates of Adam.

        ``plasticity_area`` is the mean of its validation loss over these updates, from the one before the first on
        (trapezoids), ``plasticity_loss`` the last one, both in nats a token; lower is better. All copies of a seed read
        the same sequences at the trainer's learning rate, with a new optimizer.

        Reference: the area under validation loss as a measure of a language model's plasticity is that of arXiv
            2606.24752. Corpus, budget and optimizer are ours.
        """
        held_out = self._texts.held_out
        if held_out is None:
            return {}
        updates, seed = self._task.plasticity_updates, derive(self.seed, "held out")
        mixture, size = Mixture([held_out.train], None, self._task.block, seed), self.trainer.batch_size
        student = unsharded(self.model, self._build(0)) if self._task.sharded else copied(self.model)
        running = Forward(student, replace(self.trainer, compiled=False), self._device)
        copy = Trainee(student, self._plainly_optimized, lambda _, batch: self.criterion(running(batch[0]), batch[1]))
        batches = (self._pair(mixture.batch(number * size, size)) for number in range(updates))
        marks = [updates * i // _POINTS for i in range(1, _POINTS + 1)]
        scores = copy.curve(batches, lambda _: self._validation.loss(held_out.validation, running), marks, seed)
        losses, at = torch.tensor(scores, dtype=torch.float64), torch.tensor([0, *marks], dtype=torch.float64)
        return {LEARNED: float(torch.trapezoid(losses, at)) / updates, LEARNED_LAST: scores[-1]}

    def batches(self, phase: int) -> Iterable[Batch]:
        """As many batches as the phase has updates, those of training."""
        stream = self.stream(phase, 0)
        return (next(stream) for _ in range(self.extent(phase).updates))

    def probe(self, phase: int, samples: int) -> Batch:
        """The first sequences of the phase."""
        return self._pair(self.mixture(phase).batch(0, samples))

    def rehearse(self) -> int:
        """Score one chunk of validation sequences."""
        return self._validation.rehearse(self._scored()["new"], self.forward)

    def position(self) -> dict[str, int]:
        """Tokens trained on so far."""
        return {"tokens": self._tokens}

    def state_dict(self) -> dict[str, Tensor]:
        """Their number; the place in the stream follows from the number of updates."""
        return {"tokens": torch.tensor(self._tokens)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore it."""
        self._tokens = int(state["tokens"])

    def _build(self, seed: int) -> torch.nn.Module:
        model = super()._build(seed)
        if self._task.adapters:
            adapt(model, self._task.adapters, ADAPTER_SCALE, seed)
            train_adapters(model, alone=False)
        return model

    def _scored(self) -> dict[str, TokenFile]:
        """Validation files of the new corpus and of the old one, and of the one between them where there is one."""
        second, third = self._texts.second[0], self._texts.third
        found = {"new": (third or second).validation, "old": self._texts.first.validation}
        return found if third is None else {**found, "between": second.validation}

    def _plainly_optimized(self, parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(list(parameters), lr=self.trainer.learning_rate, betas=(0.9, self.trainer.beta2))

    def _learning_cost(self) -> int:
        """Sequences scored in the time that `examine` takes; an update takes about that of three."""
        held_out = self._texts.held_out
        if held_out is None:
            return 0
        scored = (_POINTS + 1) * len(self._validation.starts(held_out.validation))
        return scored + 3 * self._task.plasticity_updates * self.trainer.batch_size

    def _pair(self, sequences: Tensor) -> Batch:
        """(B, block + 1) to inputs and targets (B, block) on the device."""
        there = sequences.to(self._device)
        return there[:, :-1], there[:, 1:]
