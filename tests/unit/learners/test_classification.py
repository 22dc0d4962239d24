"""Accuracy by hand, in any number of chunks, on any part of the training data; the loss; how a phase is laid out."""

from dataclasses import dataclass, replace
from itertools import islice

import pytest
import torch
from torch.nn import functional

from replastic.data import Dataset
from replastic.learners import classification
from replastic.streams import Phase, Stream
from replastic.streams.warm_start import WarmStart
from support.small_runs import with_task


@dataclass(frozen=True, kw_only=True)
class OnePhase(Stream):
    """A phase that was made by hand."""

    only: Phase

    def __len__(self):
        return 1

    def phase(self, splits, index, seed):
        return self.only


def learner_of(protocol, splits, **settings):
    return protocol.task.learner(splits, 0, replace(protocol.trainer, **settings))


def by_hand(model, data):
    return float((model(data.inputs).argmax(1) == data.targets).double().mean())


@pytest.mark.parametrize("batch_size", [1, 64, 70, 1000])
def test_accuracy_is_the_share_of_right_answers_whatever_the_chunk(batch_size, protocol, splits):
    learner = learner_of(protocol, splits, batch_size=batch_size)
    learner.model.train()
    assert learner.accuracy(splits.train) == pytest.approx(by_hand(learner.model, splits.train))
    assert learner.model.training, "the mode is put back"


def test_no_chunk_is_larger_than_a_batch_or_64(protocol, splits):
    sizes = []
    for batch_size in (1, 64, 70):
        learner = learner_of(protocol, splits, batch_size=batch_size)
        learner.model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
        learner.accuracy(splits.train)
    assert sizes == [64, 64, 32, 64, 64, 32, 70, 70, 20]


def test_of_much_training_data_an_even_part_is_scored_at_the_end_of_a_phase_alone(protocol, splits, monkeypatch):
    monkeypatch.setattr(classification, "TRAIN_SAMPLES", 6)
    # Sorted by class, as folders of images are: the first six samples would all be of class 0.
    data = Dataset(torch.randn(30, 1, 8, 8), torch.arange(30) // 10, 3)
    learner = learner_of(with_task(protocol, stream=OnePhase(only=Phase(0, data, steps=1))), splits)
    seen = []
    hook = learner.model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    assert learner.evaluate(0) == {}
    assert not seen
    found = learner.evaluate(0, last=True)
    hook.remove()
    assert torch.equal(torch.cat(seen), data.inputs[::5])
    assert found == {"metric/train_accuracy": pytest.approx(by_hand(learner.model, data.take(torch.arange(0, 30, 5))))}


def test_each_evaluation_set_has_a_score_of_its_own(protocol, splits):
    parts = {"": splits.test, "held_out": splits.held_out, "old": splits.train.first(7)}
    stream = OnePhase(only=Phase(0, splits.train, parts, epochs=3))
    learner = learner_of(with_task(protocol, stream=stream), splits, evaluate_every=2)
    found = learner.evaluate(0)
    assert found == {
        "metric/accuracy": pytest.approx(by_hand(learner.model, splits.test)),
        "metric/accuracy_held_out": pytest.approx(by_hand(learner.model, splits.held_out)),
        "metric/accuracy_old": pytest.approx(by_hand(learner.model, splits.train.first(7))),
    }
    extent = learner.extent(0)
    # 160 images in batches of 20 are 8 updates a pass; scored after the second pass and at the end.
    assert (extent.updates, extent.marks, extent.pass_updates, extent.batch) == (24, (16, 24), 8, 20)
    assert extent.scores == tuple(found)
    assert (extent.scored, extent.scored_last) == (20 + 20 + 7, 160)


def test_methods_and_measures_are_shown_the_data_of_the_phase_in_its_order(protocol, splits):
    learner = learner_of(with_task(protocol, stream=WarmStart(ratio=0.25, first_epochs=1, epochs=1)), splits)
    first, second = learner.phase(0).train, learner.phase(1).train
    assert (len(first), len(second)) == (40, 160)
    for phase, train in ((0, first), (1, second)):
        shown = list(learner.batches(phase))
        assert [len(targets) for _, targets in shown] == [20] * (len(train) // 20)
        assert torch.equal(torch.cat([inputs for inputs, _ in shown]), train.inputs)
        assert torch.equal(torch.cat([targets for _, targets in shown]), train.targets)
        inputs, targets = learner.probe(phase, 13)
        assert torch.equal(inputs, train.inputs[:13])
        assert torch.equal(targets, train.targets[:13])


def test_a_learner_brought_to_an_update_draws_what_follows_it(protocol, splits):
    learner = learner_of(protocol, splits)
    seen = []
    learner.model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))

    def add(losses, optimizer=""):
        return sum(losses()).detach()

    whole = list(islice(learner.stream(1, 0), 8))
    for done in (0, 3, 5):
        learner.begin(1, done)
        seen.clear()
        losses = [learner.update(add) for _ in range(3)]
        for inputs, loss, (expected, targets) in zip(list(seen), losses, whole[done : done + 3], strict=True):
            assert torch.equal(inputs, expected)
            torch.testing.assert_close(loss, functional.cross_entropy(learner.model(expected), targets))


def test_the_loss_is_mean_cross_entropy_of_any_model(protocol, splits):
    learner = learner_of(protocol, splits)
    inputs, targets = splits.test.batch(slice(None))
    logits = torch.randn(20, 10, dtype=torch.float64)
    expected = -logits.log_softmax(1)[torch.arange(20), targets].mean()
    torch.testing.assert_close(learner.loss(lambda given: logits, (inputs, targets)), expected)


def test_a_new_draw_depends_on_its_seed_and_leaves_the_model(protocol, splits):
    learner = learner_of(protocol, splits)
    before = {name: value.clone() for name, value in learner.model.state_dict().items()}
    one, same, other = (learner.draw(seed) for seed in (1, 1, 2))
    assert one.keys() == before.keys()
    for name, value in learner.model.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(one[name], same[name])
        if name.endswith("weight"):
            assert not torch.equal(one[name], other[name])
            assert not torch.equal(one[name], value)
