"""Statistics over runs and tasks beside rliable, the library of Agarwal et al. (2021), in an environment of its own.

rliable 1.2.0 fails with pandas 3, so it cannot live beside this package. Make the environment once:

    python -m venv .venv-rliable && .venv-rliable/bin/pip install "rliable==1.2.0" "arch<8" "pandas<3"

or name another one in the variable RLIABLE.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from replastic.report import aggregates

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("RLIABLE", ROOT / ".venv-rliable")) / "bin" / "python"
DRAWS = 20_000
LEVELS = np.linspace(-1.5, 2.5, 9)
SCRIPT = """
import json, sys
import numpy as np
from rliable import library, metrics
given = json.load(sys.stdin)
np.random.seed(0)
found = []
for case in given["cases"]:
    a, b = (np.array(case[side]) for side in "ab")
    one = {}
    for name, scores, function in (
        ("iqm", {"x": b}, lambda x: np.array([metrics.aggregate_iqm(x)])),
        ("improvement", {"x": (b, a)}, lambda x, y: np.array([metrics.probability_of_improvement(x, y)])),
    ):
        draws = given["draws"] if name == "iqm" else given["draws"] // 10
        point, ends = library.get_interval_estimates(scores, function, reps=draws)
        one[name] = [float(point["x"][0]), *(float(end) for end in ends["x"].ravel())]
    share, ends = library.create_performance_profile({"x": b}, np.array(given["levels"]), reps=given["draws"])
    one["profile"] = [share["x"].tolist(), *ends["x"].tolist()]
    found.append(one)
json.dump(found, sys.stdout)
"""


def cases() -> list[tuple[np.ndarray, np.ndarray]]:
    """Scores (runs, games) of two methods: few runs, many, ties, unequal numbers of runs."""
    generator = np.random.default_rng(5)
    found = [
        (generator.standard_normal((n, t)), 0.4 + generator.standard_normal((m, t)))
        for n, m, t in ((3, 3, 1), (5, 8, 3), (10, 10, 6))
    ]
    ties = [generator.integers(0, 3, (6, 2)).astype(float) for _ in range(2)]
    return [*found, (ties[0], ties[1])]


@pytest.fixture(scope="module")
def theirs() -> list[dict]:
    """What rliable says."""
    if not PYTHON.is_file():
        pytest.skip(f"no rliable at {PYTHON}: see the first lines of this file")
    given = {"cases": [{"a": a.tolist(), "b": b.tolist()} for a, b in cases()]}
    given |= {"draws": DRAWS, "levels": LEVELS.tolist()}
    done = subprocess.run(
        [PYTHON, "-c", SCRIPT], input=json.dumps(given), capture_output=True, text=True, timeout=540, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", range(4))
def test_points_and_intervals_equal_those_of_rliable(number: int, theirs: list[dict]) -> None:
    a, b = (of[:, :, None] for of in cases()[number])
    known = theirs[number]
    mean = aggregates.iqm(b, draws=DRAWS)
    better = aggregates.improvement(a, b, draws=DRAWS)
    share, low, high = aggregates.profile(b, LEVELS, draws=DRAWS)
    assert mean.mean == pytest.approx(known["iqm"][0], abs=1e-12)
    assert better.mean == pytest.approx(known["improvement"][0], abs=1e-12)
    assert share == pytest.approx(np.array(known["profile"][0]), abs=1e-12)
    # The ends are percentiles of draws: with 20,000 of them the share below an end has a standard error of 0.0011,
    # which moves an end by less than a fifth of the interval, or by one step of a statistic with few values.
    for ours, point in ((mean, known["iqm"]), (better, known["improvement"])):
        step = 1 / (len(a) * len(b) * b.shape[1])
        room = max(0.05 * (point[2] - point[1]), step)
        assert (ours.low, ours.high) == pytest.approx(tuple(point[1:]), abs=room)
    assert low == pytest.approx(np.array(known["profile"][1]), abs=1 / b[..., 0].size + 1e-9)
    assert high == pytest.approx(np.array(known["profile"][2]), abs=1 / b[..., 0].size + 1e-9)
