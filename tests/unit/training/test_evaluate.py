"""Accuracy by hand, in any number of chunks, on any part of the training data."""

from dataclasses import replace

import pytest
import torch

from replastic.data import Dataset
from replastic.methods import Method
from replastic.streams import Phase
from replastic.training import Trainer, evaluate
from replastic.training.session import Session


@pytest.mark.parametrize("batch_size", [1, 64, 70, 1000])
def test_accuracy_is_the_share_of_right_answers_whatever_the_chunk(batch_size, protocol, splits):
    session = Session(replace(protocol, trainer=Trainer(batch_size=batch_size)), splits, Method(), 0)
    data = splits.train
    expected = (session.model(data.inputs).argmax(1) == data.targets).double().mean()
    session.model.train()
    assert evaluate.accuracy(session.forward, data) == pytest.approx(float(expected))
    assert session.model.training, "the mode is put back"


def test_no_chunk_is_larger_than_a_batch_or_64(protocol, splits):
    sizes = []
    for batch_size in (1, 64, 70):
        session = Session(replace(protocol, trainer=Trainer(batch_size=batch_size)), splits, Method(), 0)
        session.model.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
        evaluate.accuracy(session.forward, splits.train)
    assert sizes == [64, 64, 32, 64, 64, 32, 70, 70, 20]


def test_of_much_training_data_an_even_part_is_scored(protocol, splits, monkeypatch):
    monkeypatch.setattr(evaluate, "TRAIN_SAMPLES", 6)
    session = Session(protocol, splits, Method(), 0)
    # Sorted by class, as folders of images are: the first six samples would all be of class 0.
    data = Dataset(torch.randn(30, 1, 8, 8), torch.arange(30) // 10, 3)
    seen = []
    session.model.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    found = evaluate.train_score(session.forward, Phase(0, data, steps=1))
    assert torch.equal(torch.cat(seen), data.inputs[::5])
    expected = (session.model(data.inputs[::5]).argmax(1) == data.targets[::5]).double().mean()
    assert found == {"metric/train_accuracy": pytest.approx(float(expected))}
