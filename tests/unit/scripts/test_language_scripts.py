"""The scripts on language models compare like with like, and compute what they say."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from replastic import benchmarks, networks
from replastic.learners._texts import Texts
from replastic.learners.language import Language
from replastic.networks.gpt import Gpt
from replastic.training import Protocol


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPLASTIC_CACHE", str(tmp_path))


@pytest.fixture
def protocol() -> Protocol:
    smoke = benchmarks.get("language_warm_start")().presets["smoke"].protocol
    assert isinstance(smoke.task, Language)
    task = replace(smoke.task, second=smoke.task.first, shares=(), plasticity_corpus="")
    return replace(smoke, task=task, trainer=replace(smoke.trainer, accumulate=2))


@pytest.fixture
def texts(protocol: Protocol) -> Texts:
    assert isinstance(protocol.task, Language)
    return protocol.task.open()


def test_attention_written_out_is_the_librarys(script) -> None:
    model = networks.build(Gpt(depth=1, heads=2, dim=8), (6,), 11, seed=0)
    attention = model.transformer["h"][0].attn
    stream = torch.randn(3, 6, 8)
    torch.testing.assert_close(script("plain_gpt").attend(attention, stream), attention(stream))


def test_both_loops_make_the_same_updates_of_the_same_batches(script, protocol: Protocol, texts: Texts) -> None:
    throughput = script("language_throughput")
    plain, library = throughput.contestants(protocol, texts, ["float32"], 12, "cpu")
    (ours,) = library.values()
    learner = ours.session.learner
    for name, loop in plain.items():
        states = [m.state_dict() for m in (loop.model, ours.session.model)]
        assert all(torch.equal(value, states[1][n]) for n, value in states[0].items()), name
    batches = [learner.probe(0, 4) for _ in range(1)] * 8
    learner.stream = lambda phase, first: iter(batches)  # type: ignore[method-assign]
    learner.begin(0, 0)
    expected = ours.advance(8)
    assert expected[-1] < expected[0]
    for loop in plain.values():
        halves = [tuple(part.split(2)) for part in batches[0]]
        queue = [(halves[0][i % 2], halves[1][i % 2]) for i in range(16)]
        loop.batch = lambda count, queue=queue: queue.pop(0)
        torch.testing.assert_close(loop.advance(8), expected, rtol=2e-4, atol=2e-4)


def test_windows_of_the_plain_loop_follow_each_other(script, protocol: Protocol, texts: Texts) -> None:
    plain, _ = script("language_throughput").contestants(protocol, texts, ["float32"], 2, "cpu")
    inputs, targets = plain["plain"].batch(3)
    assert inputs.shape == targets.shape == (3, 32)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


def test_operations_of_gpt2_by_hand(script) -> None:
    with torch.device("meta"):
        model = Gpt().module((1024,), 50304)
    weights = 50304 * 768 + 12 * (12 * 768**2 + 2 * 768) + 768
    assert script("language_throughput").operations(model, Gpt(), 1024) == 6 * weights + 12 * 12 * 768 * 1024
    rows = script("language_throughput").utilisation({"a": 1e5, "b": 2e5}, 8e8, 1e15)
    assert [(r.value, r.goal) for r in rows] == [(pytest.approx(0.08), None), (pytest.approx(0.16), 0.4)]


def test_the_boundarys_share_of_a_run_by_hand(script) -> None:
    boundary = script("language_boundary")
    costs = {name: boundary.Cost(3.0, 1.0) for name in boundary.VARIANTS}
    costs |= {"step of AdamW": boundary.Cost(2.0, 1.0), "forward and backward": boundary.Cost(5.0, 1.0)}
    rows = {(r.what, r.variant): r for r in boundary.rows_of(costs, 2, "paper")}
    update = 2.0 + 5.0 * 480 / 2
    assert rows["time", "one update, computed"].value == update
    share = rows["time / whole run", "fire, exact"]
    assert share.value == pytest.approx(3.0 / (78_000 * update))
    assert share.met
    assert rows["time / step of AdamW", "fire, exact"].value == 1.5


def test_pieces_of_a_boundary_do_their_work(script) -> None:
    boundary = script("language_boundary")
    for piece in ("step of AdamW", "forward and backward", "fire, exact"):
        cost = boundary.measured(piece, 1, 1, "cpu", "smoke")
        assert cost.seconds > 0
        assert math.isfinite(cost.mib)
