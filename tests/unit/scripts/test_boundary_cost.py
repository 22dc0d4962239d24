"""The cost of a boundary: which methods count, what is read, and memory that is really taken."""

from __future__ import annotations

import json

import pytest
import torch

from replastic import benchmarks, methods


def test_methods_that_act_at_a_boundary_are_found_by_what_they_can_do(script) -> None:
    specs = script("boundary_cost").specs("cifar10")
    names = {spec.partition(":")[0] for spec in specs}
    assert {"base", "fire", "dash", "full_reset", "interpolation", "rescale", "random_isometry"} <= names
    assert not {"parseval", "l2_init"} & names
    assert {"fire", "fire:solver=exact", "fire:solver=fast", "dash:alpha=0.3,min_shrink=0.05"} <= set(specs)


@pytest.mark.parametrize(("spec", "images"), [("base", 0), ("fire", 0), ("dash", 40)])
def test_a_crossing_is_timed_and_its_reading_counted(script, spec: str, images: int) -> None:
    cost = script("boundary_cost")
    plan = benchmarks.get("vision_warm_start")().presets["smoke"].protocol
    costs = cost.cost(plan, spec, cost.noise(16, 4, 40, "cpu"), "cpu", repeats=2)
    assert [c.images for c in costs] == [images] * 2
    assert all(c.seconds > 0 and c.mib >= 0 for c in costs)


def test_the_matrices_are_not_at_their_initial_values(script) -> None:
    cost = script("boundary_cost")
    plan = benchmarks.get("vision_warm_start")().presets["smoke"].protocol
    with cost.Session(plan, cost.noise(16, 4, 40, "cpu"), methods.from_spec("base"), 0) as session:
        cost.spike_matrices(session, 0)
        now = session.model.state_dict()
        moved = {name for name, value in session.attached.run.init.items() if not torch.equal(value, now[name])}
        assert moved == {n for n, p in session.model.named_parameters() if p.dim() > 1}


def test_peak_counts_what_is_taken_and_given_back(script) -> None:
    def work() -> None:
        for _ in range(3):
            torch.ones(16 * 2**20)  # 64 MiB, one after the other

    assert 60 < script("memory").peak(work) < 70


@pytest.mark.slow
def test_the_whole_script(
    script, monkeypatch: pytest.MonkeyPatch, tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = f"--data cifar100 --methods base rescale --images 20 --repeats 1 --json {tmp_path / 'out.json'}"
    monkeypatch.setattr("sys.argv", ["boundary_cost.py", *asked.split()])
    script("boundary_cost").main()
    rows = {(r["what"], r["variant"]): r for r in json.loads((tmp_path / "out.json").read_text())["rows"]}
    written = 24 * 192 * 192 * 4 / 2**20  # queries and keys in float32: the new ones beside the old
    assert rows["VitTiny, cifar100: memory", "rescale"]["value"] > written
    assert rows["VitTiny, cifar100: memory", "base"]["value"] < 1
    assert rows["VitTiny, cifar100: time", "rescale"]["value"] > rows["VitTiny, cifar100: time", "base"]["value"]
    assert "| VitTiny, cifar100: time | rescale |" in capsys.readouterr().out
