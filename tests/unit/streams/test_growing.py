"""Streams whose data grows: every sample comes once, the past is there as far as it should be, phases are pure."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from replastic.data import Dataset, Splits
from replastic.errors import UserError
from replastic.streams.class_incremental import ClassIncremental
from replastic.streams.continual import Continual
from replastic.streams.warm_start import WarmStart


def splits_of(classes, per_class, test_per_class=2, held_per_class=1):
    """Data whose one pixel is the sample's number; test and held-out images have numbers of their own."""

    def part(count, first):
        targets = torch.arange(classes).repeat(count)
        return Dataset(torch.arange(first, first + len(targets)).view(-1, 1), targets, classes)

    return Splits(part(per_class, 0), part(held_per_class, 10_000), part(test_per_class, 20_000))


def numbers(data):
    return data.inputs.flatten().tolist()


@st.composite
def streams_and_data(draw, access="full", replay=0.0):
    kind = draw(st.sampled_from(["warm_start", "continual", "class_incremental"]))
    phases = draw(st.integers(2, 6))
    classes = phases * draw(st.integers(1, 3))
    splits = splits_of(classes, draw(st.integers(2, 7)))
    common = {"access": access, "replay": replay}
    if kind == "warm_start":
        stream = WarmStart(ratio=draw(st.floats(0.2, 0.8)), **common)
    elif kind == "continual":
        stream = Continual(stages=phases, **common)
    else:
        stream = ClassIncremental(phases=phases, **common)
    return stream, splits, draw(st.integers(0, 2**31))


@settings(max_examples=60, deadline=None)
@given(streams_and_data())
def test_with_full_access_phases_nest_and_the_last_has_everything(case):
    stream, splits, seed = case
    seen = set()
    for index in range(len(stream)):
        now = numbers(stream.phase(splits, index, seed).train)
        assert len(now) == len(set(now))
        assert seen < set(now), "each phase keeps the past and brings something new"
        seen = set(now)
    assert seen == set(range(len(splits.train)))


@settings(max_examples=60, deadline=None)
@given(streams_and_data(access="limited"))
def test_with_limited_access_phases_are_disjoint_and_cover_everything(case):
    stream, splits, seed = case
    shown = [n for index in range(len(stream)) for n in numbers(stream.phase(splits, index, seed).train)]
    assert sorted(shown) == list(range(len(splits.train)))


@settings(max_examples=40, deadline=None)
@given(streams_and_data(access="limited", replay=0.4))
def test_replay_adds_its_share_of_the_past_and_draws_it_anew(case):
    stream, splits, seed = case
    past = set()
    for index in range(len(stream)):
        now = numbers(stream.phase(splits, index, seed).train)
        again = past & set(now)
        assert len(now) == len(set(now))
        assert len(again) == round(0.4 * len(past))
        past |= set(now)
    assert past == set(range(len(splits.train)))


def test_replay_differs_between_phases_and_seeds_and_a_replay_of_all_is_full_access():
    splits = splits_of(10, 100)
    stream = Continual(stages=4, access="limited", replay=0.3)
    parts = Continual(stages=4, access="limited")
    first = set(numbers(parts.phase(splits, 0, 7).train))
    drawn = [first & set(numbers(stream.phase(splits, index, 7).train)) for index in (1, 2, 3)]
    # About 30% of the first stage's 250 images are replayed each time; other ones, or the overlap would be 75.
    assert all(len(drawn[i] & drawn[j]) < 50 for i, j in ((0, 1), (0, 2), (1, 2)))
    whole = Continual(stages=4, access="limited", replay=1.0)
    for index in range(4):
        full = Continual(stages=4).phase(splits, index, 7).train
        assert sorted(numbers(whole.phase(splits, index, 7).train)) == sorted(numbers(full))


@settings(max_examples=60, deadline=None)
@given(streams_and_data(access="limited", replay=0.4))
def test_a_phase_is_the_same_whenever_it_is_asked_for_and_disturbs_no_generator(case):
    stream, splits, seed = case
    state = torch.get_rng_state()
    last = len(stream) - 1
    before = numbers(stream.phase(splits, last, seed).train)
    for index in range(len(stream)):
        stream.phase(splits, index, seed)
    assert numbers(stream.phase(splits, last, seed).train) == before
    assert torch.equal(state, torch.get_rng_state())


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**31))
def test_class_incremental_brings_equal_numbers_of_classes_and_scores_those_seen(phases, per_phase, seed):
    classes = phases * per_phase
    splits = splits_of(classes, 3)
    stream = ClassIncremental(phases=phases)
    order = []
    for index in range(phases):
        phase = stream.phase(splits, index, seed)
        seen = set(phase.train.targets.tolist())
        assert len(seen) == per_phase * (index + 1)
        assert set(order) < seen
        order += [label for label in sorted(seen) if label not in order]
        assert phase.train.classes == classes, "the head is full-width from the start"
        assert torch.bincount(phase.train.targets, minlength=classes).tolist() == [
            3 if label in seen else 0 for label in range(classes)
        ]
        for name, whole, each in (("", splits.test, 2), ("held_out", splits.held_out, 1)):
            scored = phase.evaluations[name]
            assert set(scored.targets.tolist()) == seen
            assert len(scored) == each * len(seen)
            assert set(numbers(scored)) <= set(numbers(whole))
        assert phase.evaluations["all"] is splits.test
    assert sorted(order) == list(range(classes))


def test_class_incremental_takes_the_classes_in_an_order_of_the_seed():
    splits, stream = splits_of(20, 2), ClassIncremental(phases=20)
    orders = {tuple(torch.cat(stream.new_classes(20, seed)).tolist()) for seed in range(5)}
    assert len(orders) == 5
    assert set(stream.phase(splits, 0, 3).train.targets.tolist()) == set(stream.new_classes(20, 3)[0].tolist())


def test_stages_differ_by_one_image_at_most_and_mix_the_classes():
    splits, stream = splits_of(10, 103), Continual(stages=8, access="limited", epochs=3)
    phases = [stream.phase(splits, index, 1) for index in range(8)]
    assert {len(phase.train) for phase in phases} == {128, 129}
    assert {phase.epochs for phase in phases} == {3}
    assert all(len(phase.train.targets.unique()) == 10 for phase in phases)


def test_where_nothing_is_held_out_nothing_is_scored_there():
    splits = splits_of(4, 5, held_per_class=0)
    for stream in (WarmStart(ratio=0.5), Continual(stages=2), ClassIncremental(phases=2)):
        assert "held_out" not in stream.phase(splits, 0, 0).evaluations


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: ClassIncremental(phases=3), r"phases must divide the 10 classes, got 3; use one of: 1, 2, 5, 10"),
        (lambda: Continual(stages=51), r"stages 51 of 50 images leave an empty stage"),
        (lambda: WarmStart(ratio=0.001), r"ratio 0.001 of 50 images leaves an empty first phase"),
        (lambda: WarmStart(ratio=0.999, access="limited"), r"ratio 0.999 of 50 images leaves an empty second phase"),
        (lambda: Continual(replay=0.1), r"replay 0.1 has no effect where all past data is kept; give --access limited"),
        (lambda: Continual(replay=1.1, access="limited"), r"replay must lie in \[0, 1\], got 1.1"),
        (lambda: WarmStart(access="some"), r"access must be one of full, limited, got 'some'"),
        (lambda: Continual(stages=0), r"stages must be at least 1, got 0"),
        (lambda: ClassIncremental(phases=0), r"phases must be at least 1, got 0"),
        (lambda: ClassIncremental(epochs=0), r"epochs must be at least 1, got 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(make, words):
    with pytest.raises(UserError, match=words):
        make().phase(splits_of(10, 5), 0, 0)


def test_a_test_split_without_the_classes_seen_is_refused():
    splits = splits_of(4, 5)
    splits = Splits(splits.train, splits.held_out, splits.test.first(0))
    for stream in (WarmStart(ratio=0.5), ClassIncremental(phases=2)):
        with pytest.raises(UserError, match="no test image is left to score"):
            stream.phase(splits, 0, 0)
