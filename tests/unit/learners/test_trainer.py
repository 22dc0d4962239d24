"""How a phase is trained: the learning rate by hand, the optimizer, when to evaluate, and what is refused."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from replastic.errors import UserError
from replastic.learners import Trainer


def rates(steps, **settings):
    trainer = Trainer(**settings)
    return [trainer.rate(step, steps) for step in range(steps)]


def test_a_constant_rate_rises_linearly_over_its_share_and_stays():
    assert rates(20, warmup=0.2) == [0.25, 0.5, 0.75, *[1.0] * 17]
    assert rates(3, warmup=0.0) == [1.0, 1.0, 1.0]
    assert rates(4, warmup=1.0) == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        # Six updates after a warm-up of two: the last is at final_rate, and they differ by a fifth.
        ({"schedule": "linear"}, [1.0, 0.8, 0.6, 0.4, 0.2, 0.0]),
        ({"schedule": "linear", "final_rate": 0.5}, [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]),
        # Cosines of 0, 36, 72, 108, 144 and 180 degrees, brought from [-1, 1] to [0, 1] or [0.1, 1].
        ({"schedule": "cosine"}, [1.0, 0.904508, 0.654508, 0.345492, 0.095492, 0.0]),
        ({"schedule": "cosine", "final_rate": 0.1}, [1.0, 0.914058, 0.689058, 0.410942, 0.185942, 0.1]),
    ],
)
def test_after_the_warm_up_the_rate_falls_to_its_end_at_the_last_update(settings, expected):
    assert rates(8, warmup=0.25, **settings) == pytest.approx([0.5, 1.0, *expected], abs=1e-6)
    assert rates(6, warmup=0.0, **settings) == pytest.approx(expected, abs=1e-6)


def test_warm_up_stable_decay_by_hand():
    settings = {"warmup": 0.2, "schedule": "wsd", "decay": 0.4}
    assert rates(10, **settings) == pytest.approx([0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0])
    assert rates(10, final_rate=0.1, **settings)[-4:] == pytest.approx([0.775, 0.55, 0.325, 0.1])
    assert rates(5, warmup=0.8, schedule="wsd", decay=1.0) == pytest.approx([0.25, 0.5, 0.75, 1, 1])


def test_a_limit_of_the_warm_up_in_updates():
    assert rates(20, warmup=0.5, most_warmup=2)[:3] == [0.5, 1.0, 1.0]
    assert rates(20, warmup=0.1, most_warmup=2000) == rates(20, warmup=0.1)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_phases_too_short_to_fall_keep_the_rate(schedule):
    assert rates(1, warmup=0.0, schedule=schedule) == [1.0]
    assert rates(2, warmup=0.5, schedule=schedule) == [1.0, 1.0]
    assert rates(4, warmup=1.0, schedule=schedule) == [0.25, 0.5, 0.75, 1.0]


@given(st.integers(1, 300), st.floats(0, 1), st.floats(0, 1), st.sampled_from(["linear", "cosine", "wsd"]))
def test_a_rate_never_leaves_its_bounds_and_falls_after_its_peak(steps, warmup, final, schedule):
    found = rates(steps, warmup=warmup, final_rate=final, schedule=schedule)
    rising = round(warmup * steps)
    assert all(0 < rate <= 1 for rate in found[:rising])
    assert found[:rising] == sorted(found[:rising])
    assert all(final - 1e-12 <= rate <= 1 for rate in found[rising:])
    assert found[rising:] == sorted(found[rising:], reverse=True)
    if steps - rising >= 2:
        assert found[rising] == 1.0
        assert found[-1] == pytest.approx(final)


def test_optimizers_are_torchs_with_the_settings_given_and_a_groups_own_first():
    one, other = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
    groups = [{"params": [one]}, {"params": [other], "lr": 0.5}]
    adam = Trainer(learning_rate=0.25, weight_decay=0.1).make_optimizer(groups)
    assert type(adam) is torch.optim.Adam
    assert [group["lr"] for group in adam.param_groups] == [0.25, 0.5]
    assert [group["weight_decay"] for group in adam.param_groups] == [0, 0], "the decay is the loop's, not Adam's L2"
    sgd = Trainer(optimizer="sgd", momentum=0.9, learning_rate=0.25).make_optimizer(groups)
    assert type(sgd) is torch.optim.SGD
    assert [(group["lr"], group["momentum"]) for group in sgd.param_groups] == [(0.25, 0.9), (0.5, 0.9)]


@given(st.integers(1, 400), st.integers(1, 64), st.integers(1, 12), st.integers(1, 3))
def test_a_phase_is_evaluated_once_an_epoch_with_its_end_the_last_time(count, size, epochs, every):
    trainer = Trainer(batch_size=size, evaluate_every=every)
    updates, marks = trainer.extent(count, steps=None, epochs=epochs)
    assert updates == math.ceil(epochs * count / min(size, count)) == marks[-1]
    wanted = {round(p * count / min(size, count)) for p in range(every, epochs, every)} | {updates}
    assert list(marks) == sorted(wanted)
    if size <= count:
        assert len(marks) == math.ceil(epochs / every)


def test_a_phase_of_a_number_of_updates_is_evaluated_after_each_pass_and_at_its_end():
    # 50 samples in batches of 20 are 2.5 updates a pass; halves round to even.
    assert Trainer(batch_size=20, evaluate_every=1).extent(50, steps=12, epochs=None) == (12, (2, 5, 8, 10, 12))
    assert Trainer(batch_size=20, evaluate_every=2).extent(50, steps=12, epochs=None) == (12, (5, 10, 12))
    assert Trainer(batch_size=20).extent(50, steps=12, epochs=None) == (12, (12,))


def test_absurd_numbers_of_evaluations_are_refused():
    with pytest.raises(UserError, match=r"999,999,999,999 times: raise evaluate_every"):
        Trainer(evaluate_every=1).extent(4, steps=None, epochs=10**12)
    assert Trainer().extent(4, steps=None, epochs=10**12) == (10**12, (10**12,))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("batch_size", 0),
        ("accumulate", 0),
        ("warmup", 1.5),
        ("final_rate", -0.1),
        ("final_rate", math.nan),
        ("momentum", 1.0),
        ("weight_decay", -1e-4),
        ("weight_decay", math.inf),
        ("clip_norm", -1.0),
        ("clip_norm", math.nan),
        ("save_seconds", math.inf),
    ],
)
def test_settings_out_of_range_are_refused(field, value):
    with pytest.raises(UserError, match=f"{field} must .* got {value}"):
        Trainer(**{field: value})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, got 'float16'"),
        ({"optimizer": "adamw"}, "optimizer must be one of adam, sgd, got 'adamw'"),
        ({"schedule": "step"}, "schedule must be one of constant, linear, cosine, wsd, got 'step'"),
        ({"momentum": 0.9}, r"momentum 0\.9 has no effect on adam: give --optimizer sgd"),
        ({"final_rate": 0.1}, r"final_rate 0\.1 has no effect on a constant schedule: give --schedule"),
    ],
)
def test_words_that_are_not_known_and_settings_without_effect_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        Trainer(**settings)
