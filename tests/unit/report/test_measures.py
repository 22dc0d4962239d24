"""Numbers of single runs against hand computation."""

from __future__ import annotations

from pathlib import Path

import pytest

from replastic.report import measures
from replastic.report.experiment import load


def test_final_mean_and_cost(tmp_path: Path, write_run) -> None:
    write_run(tmp_path, "base", 0, [1.0, 0.5, 0.0], seconds=2.0)
    write_run(tmp_path, "base", 1, [1.0, 0.5, 0.6], seconds=3.0)
    experiment = load(tmp_path)
    assert measures.final_scores(experiment, "base") == {0: 0.0, 1: 0.6}
    assert measures.mean_scores(experiment, "base") == pytest.approx({0: 0.5, 1: 0.7})
    assert measures.costs(experiment, "base") == {0: 6.0, 1: 9.0}
    assert measures.costs(experiment.until(1), "base") == {0: 2.0, 1: 3.0}


def test_layers_of_the_last_phase_averaged_over_seeds(tmp_path: Path, write_run) -> None:
    for seed in (0, 1):
        write_run(
            tmp_path, "base", seed, [0.9, 0.8], extra=lambda phase, s=seed: {"metric/dfi/fc.weight": 10.0 * phase + s}
        )
    assert measures.layers(load(tmp_path), "base", "metric/dfi") == {"fc.weight": 10.5}
