"""The language learner: losses by hand, the place in the stream, schedules, and settings that do not fit."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from replastic import methods
from replastic.data import corpus
from replastic.data.mixture import Mixture
from replastic.errors import UserError
from replastic.experiments.cost import _scored
from replastic.learners import Trainer
from replastic.learners._texts import Texts
from replastic.learners.language import (
    LEARNED,
    LEARNED_LAST,
    LOSS_NEW,
    LOSS_OLD,
    Language,
    LanguageModel,
)
from replastic.networks.gpt import Gpt
from replastic.networks.mlp import Mlp
from replastic.records import Event, RunDirectory
from replastic.seeds import derive
from replastic.training import Protocol, train

FIRST, SECOND = "grammar:count=12,sentences=10", "grammar:count=12,sentences=10,dialect=1+grammar:count=12,sentences=10"


def task(**changed: object) -> Language:
    tiny = {
        "first": FIRST,
        "second": SECOND,
        "tokenizer": "bpe:size=280",
        "block": 16,
        "first_updates": 6,
        "updates": 4,
        "evaluations": 2,
        "validation": 3,
        "network": Gpt(depth=1, heads=2, dim=8),
    }
    return Language(**(tiny | changed))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLASTIC_CACHE", str(tmp_path_factory.getbasetemp() / "language"))


def learner(chosen: Language | None = None, seed: int = 0, **trainer: object) -> LanguageModel:
    chosen = chosen or task()
    settings = {"batch_size": 4, "learning_rate": 1e-2} | trainer
    return chosen.learner(chosen.open(), seed, Trainer(**settings))  # type: ignore[arg-type]


@torch.no_grad()
def by_hand(model: torch.nn.Module, sequences: Tensor) -> float:
    """Mean negative log-probability of every next token, one by one in float64."""
    total, count = 0.0, 0
    for row in sequences:
        logits = model(row[None, :-1])[0].double()
        for place, target in enumerate(row[1:].tolist()):
            total -= float(logits[place, target] - logits[place].logsumexp(0))
            count += 1
    return total / count


@torch.no_grad()
def test_losses_equal_the_sum_by_hand() -> None:
    found = learner(evaluation := task())
    texts: Texts = evaluation.open()
    scores = found.evaluate(0)
    for key, file in ((LOSS_NEW, texts.second[0].validation), (LOSS_OLD, texts.first.validation)):
        windows = (file.facts.tokens - 1) // 16
        starts = [i * 16 * (windows // 3) for i in range(3)]
        expected = by_hand(found.model, torch.stack([file.slice(start, 17) for start in starts]))
        assert scores[key] == pytest.approx(expected, rel=1e-5)
    bytes_per_token = texts.first.validation.facts.bytes / texts.first.validation.facts.tokens
    assert scores["metric/bits_old"] == pytest.approx(scores[LOSS_OLD] / math.log(2) / bytes_per_token)
    sequences = torch.stack([found.mixture(1).sample(i) for i in range(5)])
    batch = (sequences[:, :-1], sequences[:, 1:])
    assert float(found.loss(found.model, batch)) == pytest.approx(by_hand(found.model, sequences), rel=1e-5)


def test_training_goes_on_at_the_exact_token() -> None:
    whole, resumed = learner(), learner()
    stream = whole.stream(1, 0)
    batches = [next(stream) for _ in range(6)]
    again = resumed.stream(1, 4)
    assert all(
        torch.equal(a, b) for one, two in zip(batches[4:], again, strict=False) for a, b in zip(one, two, strict=True)
    )
    inputs, targets = batches[0]
    assert torch.equal(inputs[:, 1:], targets[:, :-1])
    whole.begin(0, 0)
    whole.update(lambda losses, optimizer="": sum(losses()).detach())  # type: ignore[arg-type, union-attr, return-value]
    assert whole.position() == {"tokens": 4 * 16}
    resumed.load_state_dict(whole.state_dict())
    assert resumed.position() == whole.position()


def test_a_phase_ends_mid_schedule_if_asked() -> None:
    mid = learner(task(first_schedule=60))
    assert (mid.extent(0).updates, mid.extent(0).schedule, mid.extent(1).schedule) == (6, 60, 0)
    assert mid.extent(0).marks == (3, 6)


def test_parts_of_a_batch_give_the_loss_of_the_whole() -> None:
    whole, parts = learner(), learner(accumulate=4)
    losses = []
    for one in (whole, parts):
        one.begin(0, 0)
        found: list[Tensor] = []
        one.update(lambda parts, optimizer="", kept=found: kept.extend(parts()) or sum(kept))  # type: ignore[misc]
        losses.append(found)
    assert [len(found) for found in losses] == [1, 4]
    torch.testing.assert_close(sum(losses[1]), losses[0][0])


def test_another_seed_reads_in_another_order_and_draws_another_network() -> None:
    one, other = learner(seed=0), learner(seed=1)
    assert not torch.equal(one.probe(0, 3)[0], other.probe(0, 3)[0])
    assert not torch.equal(next(one.model.parameters()), next(other.model.parameters()))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"first_schedule": 3}, "at least first_updates, 6, got 3"),
        ({"shares": (1.0,)}, "one share for each"),
        ({"first": "nothing"}, "nothing"),
        ({"shares": (0.5, 0.4)}, "sum to 1"),
        ({"block": 4000}, "fewer than"),
        ({"network": Mlp()}, "mlp reads numbers, and the samples are tokens"),
        ({"block": 0}, "block"),
    ],
)
def test_settings_that_do_not_fit_say_so(changed: dict[str, object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        learner(task(**changed)).extent(1)


def test_made_up_text_is_always_the_same_and_dialects_differ(tmp_path: Path) -> None:
    def text(spec: str, part: corpus.Part = "train") -> list[str]:
        with corpus.from_spec(spec).documents(part) as documents:
            return list(documents)

    assert text("grammar:count=3") == text("grammar:count=5")[:3]
    assert not {*text("grammar:count=20")} & {*text("grammar:count=20", "validation")}
    words = [{*" ".join(text(f"grammar:count=5,dialect={i}")).replace(".", "").split()} for i in (0, 1)]
    assert len(words[0] & words[1]) < 0.2 * len(words[0])


def test_replay_mixes_the_first_corpus_into_later_phases_and_keeps_the_rest_in_proportion() -> None:
    chosen = task(shares=(0.75, 0.25))
    plain, mixed = learner(chosen), learner(chosen)
    mixed.replay(0.2)
    assert mixed._mixture(1, 0.2).shares == pytest.approx((0.6, 0.2, 0.2))
    drawn = Counter(mixed._mixture(1, 0.2).source(number)[0] for number in range(1024 * 5))
    assert drawn == {0: 3072, 1: 1024, 2: 1024}
    assert mixed._mixture(1, 0.2).files[2].path == chosen.open().first.train.path
    for phase, same in ((0, True), (1, False)):
        one, other = (torch.cat([batch[0] for batch in islice(each.stream(phase, 0), 12)]) for each in (plain, mixed))
        assert torch.equal(one, other) == same
    assert torch.equal(plain.probe(1, 4)[0], mixed.probe(1, 4)[0]), "measures see the same samples under every method"


def test_replay_goes_on_at_the_exact_token() -> None:
    whole, resumed = learner(), learner()
    for each in (whole, resumed):
        each.replay(0.3)
    stream = whole.stream(1, 0)
    batches = [next(stream) for _ in range(6)]
    for one, other in zip(batches[4:], resumed.stream(1, 4), strict=False):
        assert torch.equal(one[0], other[0])


def held_out(**changed: object) -> Language:
    spec = "grammar:count=12,sentences=10,dialect=3"
    return task(plasticity_corpus=spec, plasticity_updates=10, validation=2, **changed)


def test_plasticity_is_the_area_under_the_loss_of_a_copy_that_learns() -> None:
    found = learner(chosen := held_out())
    state = {name: value.clone() for name, value in found.model.state_dict().items()}
    scores = found.examine(1)
    assert all(torch.equal(value, state[name]) for name, value in found.model.state_dict().items())
    assert found.examine(0) == scores, "the same at every moment for the same weights"
    texts = chosen.open()
    assert texts.held_out is not None
    file = texts.held_out.validation
    windows = (file.facts.tokens - 1) // 16
    sequences = torch.stack([file.slice(i * 16 * (windows // 2), 17) for i in range(2)])
    mixture = Mixture([texts.held_out.train], None, 16, derive(0, "held out"))
    model = copy.deepcopy(found.model)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = [by_hand(model, sequences)]
    for number in range(10):
        batch = mixture.batch(4 * number, 4)
        optimizer.zero_grad()
        found.loss(model, (batch[:, :-1], batch[:, 1:])).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if number % 2:
            losses.append(by_hand(model, sequences))
    area = sum((one + other) / 2 for one, other in pairwise(losses)) / 5
    assert scores == pytest.approx({LEARNED: area, LEARNED_LAST: losses[-1]}, rel=1e-4)
    assert losses[-1] < losses[0]


def test_plasticity_is_recorded_after_boundaries_and_at_ends_and_changes_nothing(tmp_path: Path) -> None:
    records = []
    for name, chosen in (("with", held_out()), ("without", task(validation=2))):
        directory, protocol = RunDirectory(tmp_path / name), Protocol(task=chosen, trainer=Trainer(batch_size=4))
        train(protocol, chosen.open(), methods.from_spec("fire"), 0, directory)
        records.append(directory.records())
    assert {r["event"] for r in records[0] if LEARNED in r} == {Event.BOUNDARY, Event.PHASE_END}
    plain = [{k: v for k, v in r.items() if k not in (LEARNED, LEARNED_LAST, "seconds")} for r in records[0]]
    assert plain == [{k: v for k, v in r.items() if k != "seconds"} for r in records[1]]
    assert "plasticity_corpus" in held_out().config()
    assert not any("plasticity" in name for name in task().config())


def test_copies_learn_in_the_trainers_precision() -> None:
    chosen = held_out()
    plain, half = learner(chosen), learner(chosen, precision="bfloat16")
    exact, rounded = plain.examine(0), half.examine(0)
    assert exact != rounded
    assert rounded == pytest.approx(exact, rel=2e-2)


def test_a_copy_is_counted_twice_in_a_phase_with_a_boundary() -> None:
    with_copy, without = learner(held_out()), learner(task(validation=2))
    cost = 6 * 2 + 3 * 10 * 4
    for phase, times in ((0, 1), (1, 2)):
        one, other = (_scored(phase, each.extent(phase)) for each in (with_copy, without))
        assert one - other == times * cost


def test_a_third_phase_learns_a_third_corpus_and_is_scored_on_it() -> None:
    chosen = task(third="grammar:count=12,sentences=10,dialect=2", third_updates=5, validation=0)
    found, texts = learner(chosen), chosen.open()
    assert texts.third is not None
    assert chosen.phases == 3
    assert [found.extent(phase).updates for phase in range(3)] == [6, 4, 5]
    assert [file.path for file in found.mixture(2).files] == [texts.third.train.path]
    file = texts.third.validation
    windows = (file.facts.tokens - 1) // 16
    sequences = torch.stack([file.slice(16 * i, 17) for i in range(windows)])
    assert found.evaluate(2)[LOSS_NEW] == pytest.approx(by_hand(found.model, sequences), rel=1e-4)
    in_two = learner(task(validation=0)).evaluate(1)
    assert found.evaluate(2)[LOSS_OLD] == in_two[LOSS_OLD]
    assert found.evaluate(2)["metric/loss_between"] == in_two[LOSS_NEW]
    assert found.evaluate(2)["metric/bits_between"] == in_two["metric/bits_new"]
    assert "dialect=2" in str(chosen.config()["third"])
    assert not any(name.startswith("third") for name in task().config())
    assert "third, train" in chosen.facts(texts)
    found.replay(0.25)
    assert found._mixture(2, 0.25).shares == (0.75, 0.25)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Skipping serialization of skipfiles:UserWarning")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_compiled_and_in_parts_it_trains_as_it_does_plainly(precision: str, tmp_path: Path) -> None:
    losses = []
    for compiled in (False, True):
        trainer = Trainer(batch_size=4, accumulate=2, learning_rate=1e-3, compiled=compiled, precision=precision)
        protocol = Protocol(task=task(), trainer=trainer)
        directory = RunDirectory(tmp_path / f"{compiled}")
        train(protocol, protocol.task.open(), methods.from_spec("base"), 0, directory)
        losses.append([r[LOSS_NEW] for r in directory.records()])
    assert losses[1] == pytest.approx(losses[0], rel=1e-5 if precision == "float32" else 3e-3)


def test_the_first_phase_may_decay_its_weights_more() -> None:
    chosen = task(first_weight_decay=0.5)
    found = learner(chosen)
    assert [found.extent(phase).weight_decay for phase in (0, 1)] == [0.5, None]
    assert chosen.config()["first_weight_decay"] == 0.5
    assert "first_weight_decay" not in task().config()


def test_its_decay_is_that_of_a_run_which_decays_so_all_the_time(tmp_path: Path) -> None:
    """In the first phase the weights are the same; in the second they part."""
    trainer = Trainer(batch_size=4, learning_rate=1e-2, checkpoints=True, weight_decay=0.1)
    own = Protocol(task=task(first_weight_decay=0.5), trainer=trainer, methods_from=1)
    always = replace(own, task=task(), trainer=replace(trainer, weight_decay=0.5))
    losses = []
    for name, protocol in (("own", own), ("always", always)):
        directory = RunDirectory(tmp_path / name)
        train(protocol, protocol.task.open(), methods.from_spec("base"), 0, directory)
        losses.append({(r["phase"], r["step"]): r[LOSS_NEW] for r in directory.records()})
    ends = {phase: max(step for p, step in losses[0] if p == phase) for phase in (0, 1)}
    assert losses[0][0, ends[0]] == losses[1][0, ends[0]]
    assert losses[0][1, ends[1]] != losses[1][1, ends[1]]
