"""Planted dead units: dead for every training sample, and counted right."""

from __future__ import annotations

import pytest
import torch

from replastic import data


@pytest.mark.parametrize("kind", ["bias, just below", "bias, far below", "weights"])
def test_planted_units_are_dead_and_the_others_as_they_were(script, kind: str) -> None:
    dead = script("revive_dead_units")
    inputs, _ = data.load("digits").train.batch(slice(None))
    model, plain = dead.network(3), dead.network(3)
    planted = dead.plant(model, inputs, kind, 3)
    assert list(planted) == [3, 5]
    for place, units in planted.items():
        assert len(units) == len(set(units.tolist())) == 16
        before = torch.relu(model[:place](inputs))
        largest = (before @ model[place].weight.T + model[place].bias).amax(0)
        assert (largest[units] <= 0).all()
        others = [u for u in range(64) if u not in units.tolist()]
        assert torch.equal(model[place].weight[others], plain[place].weight[others])
        assert torch.equal(model[place].bias[others], plain[place].bias[others])
        assert torch.equal(dead.active(model, inputs, place), largest > 0)


def test_a_reset_revives_and_no_update_does_not(script) -> None:
    dead = script("revive_dead_units")
    alive, accuracy = dead.trained("base", "bias, far below", 0, 1)
    assert alive == 0.0
    assert 0 <= accuracy <= 1
    assert dead.trained("redo:every=2,dormancy_threshold=0", "bias, far below", 0, 3)[0] > 0.9


def test_the_tables_have_an_interval_where_seeds_differ(script) -> None:
    dead = script("revive_dead_units")
    results = {("base", "weights"): [(0.0, 0.5), (0.0, 0.7)], ("adamo", "weights"): [(0.25, 0.5), (0.5, 0.5)]}
    first = dead.table(results, lambda r: r[0]).splitlines()
    assert first[0] == "| method | weights |"
    assert first[2] == "| `base` | 0.000 |"
    assert first[3].startswith("| `adamo` | 0.375 (0.0")
