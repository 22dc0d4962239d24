"""Numbers of single runs against hand computation."""

from __future__ import annotations

from pathlib import Path

import pytest

from replastic.report import measures
from replastic.report.experiment import load

KEY = "metric/accuracy"


@pytest.fixture
def evaluated(tmp_path: Path, write_run):
    """Two phases of 300 updates with evaluations: 0.2, 0.6 | boundary 0.1 | 0.3, 0.5, 0.7."""
    run = write_run(tmp_path, "base", 0, [])

    def add(phase: int, step: int, event: str, score: float) -> None:
        run.append({"phase": phase, "step": step, "event": event, "seconds": step / 100, KEY: score})

    add(0, 100, "evaluation", 0.2)
    add(0, 300, "phase_end", 0.6)
    add(1, 300, "before_boundary", 0.6)
    add(1, 300, "boundary", 0.1)
    add(1, 400, "evaluation", 0.3)
    add(1, 500, "evaluation", 0.5)
    add(1, 600, "phase_end", 0.7)
    return tmp_path


def test_final_mean_and_cost(tmp_path: Path, write_run) -> None:
    write_run(tmp_path, "base", 0, [1.0, 0.5, 0.0], seconds=2.0)
    write_run(tmp_path, "base", 1, [1.0, 0.5, 0.6], seconds=3.0)
    experiment = load(tmp_path)
    assert measures.final_scores(experiment, "base") == {0: 0.0, 1: 0.6}
    assert measures.mean_scores(experiment, "base") == pytest.approx({0: 0.5, 1: 0.7})
    assert measures.costs(experiment, "base") == {0: 6.0, 1: 9.0}
    assert measures.costs(experiment.until(1), "base") == {0: 2.0, 1: 3.0}


def test_boundaries_by_hand(evaluated: Path) -> None:
    experiment = load(evaluated)
    found = measures.boundaries(experiment.runs["base"][0], KEY, phases=2)
    assert found is not None
    # Phase 0: (0.2 + 0.6) / 2 over its one stretch. Phase 1: (0.4 * 100 + 0.6 * 100) / 200.
    assert found.area == pytest.approx((0.4 + 0.5) / 2)
    assert found.drop == pytest.approx(0.6 - 0.1)
    assert found.recovery == 3
    assert found.recovered == 1.0


def test_a_phase_that_never_recovers_counts_one_more(evaluated: Path) -> None:
    run = load(evaluated).runs["base"][0]
    run.records[-1][KEY] = 0.55
    found = measures.boundaries(run, KEY, phases=2)
    assert found is not None
    assert (found.recovery, found.recovered) == (4, 0.0)


def test_lower_is_better_turns_the_drop_around(evaluated: Path) -> None:
    found = measures.boundaries(load(evaluated).runs["base"][0], KEY, phases=2, higher_is_better=False)
    assert found is not None
    assert found.drop == pytest.approx(0.1 - 0.6)
    assert found.recovery == 1


def test_without_evaluations_nothing_is_made_up(tmp_path: Path, write_run) -> None:
    write_run(tmp_path, "base", 0, [0.9, 0.8])
    assert measures.boundaries(load(tmp_path).runs["base"][0], KEY, phases=2) is None


def test_layers_of_the_last_phase_averaged_over_seeds(tmp_path: Path, write_run) -> None:
    for seed in (0, 1):
        write_run(
            tmp_path, "base", seed, [0.9, 0.8], extra=lambda phase, s=seed: {"metric/dfi/fc.weight": 10.0 * phase + s}
        )
    assert measures.layers(load(tmp_path), "base", "metric/dfi") == {"fc.weight": 10.5}
