"""The example of a measure in the documentation is in the file beside it, and is recorded as the page says."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from replastic import metrics
from replastic.cli import main
from replastic.experiments import experiment
from replastic.records import RunDirectory
from replastic.registry import load_plugin
from replastic.weights.entries import MatrixInfo
from support.in_this_process import work

ROOT = Path(__file__).resolve().parents[3]
FILE = ROOT / "examples" / "my_metric.py"
NAME = "metric/log_condition"
SMOKE = ["run", "digits_random_labels", "--preset", "smoke", "--seeds", "1", "--methods", "base", "fire"]


def test_the_page_shows_the_function() -> None:
    page = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    function = FILE.read_text(encoding="utf-8").partition("\n\n\n")[2]
    assert function.startswith("@metrics.register")
    assert f"```python\n{function}```" in page


def test_it_measures_what_it_says() -> None:
    load_plugin(FILE)
    w = torch.stack([torch.diag(torch.tensor([100.0, 10.0, 1.0])), torch.eye(3)])
    measured = metrics.get("log_condition").compute(w, MatrixInfo("w", "linear", 2, 3, 3))
    assert measured.tolist() == pytest.approx([2.0, 0.0])


def test_a_run_records_the_measures_that_are_asked_for_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment, "work", work)
    asked = ["--metrics", "dfi", "log_condition", "--boundary-metrics", "log_condition", "sfe"]
    assert main([*SMOKE, *asked, "--plugin", str(FILE), "--json"]) == 0
    out = json.loads(capsys.readouterr().out)["out"]
    assert out == "runs/digits_random_labels-smoke-metrics=-dfi-log_condition-boundary_metrics=-log_condition-sfe"
    base, fire = (RunDirectory(tmp_path / out / method / "seed-0") for method in ("base", "fire"))
    config = base.info().config
    assert config["metrics"] == ["dfi", "log_condition"]
    assert config["boundary_metrics"] == ["log_condition", "sfe"]

    def measures(record: dict[str, object]) -> set[str]:
        return {key.split("/")[1] for key in record if key.startswith("metric/")} - {
            "accuracy",
            "train_accuracy",
            "train_loss",
        }

    ends = [record for record in base.records() if record["event"] == "phase_end"]
    boundaries = [record for record in base.records() if record["event"] == "boundary"]
    assert len(ends) == len(boundaries) + 1
    assert {frozenset(measures(record)) for record in ends} == {frozenset({"dfi", "log_condition"})}
    assert {frozenset(measures(record)) for record in boundaries} == {frozenset({"sfe", "log_condition"})}
    for end, boundary in zip(ends, boundaries, strict=False):  # base changes nothing between the two
        assert boundary[NAME] == end[NAME] > 0.1
    layers = [key for key in boundaries[0] if key.startswith(f"{NAME}/")]
    assert len(layers) >= 2
    for record in fire.records():
        if record["event"] == "boundary":  # fire makes all singular values of a matrix equal
            assert [record[layer] for layer in layers] == pytest.approx([0.0] * len(layers), abs=1e-3)
            assert math.isfinite(record["metric/sfe"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--metrics", "log_conditon"], "unknown metric 'log_conditon'; did you mean 'log_condition'"),
        (["--boundary-metrics", "dif"], "unknown metric 'dif'; did you mean 'dfi'"),
        (
            ["--metrics", "dfi", "sfe"],
            "--metrics: sfe compares two states of the weights; give it to --boundary-metrics",
        ),
        (["--metrics"], "--metrics needs the names of measures after it"),
        (["--boundary-metrics"], "--boundary-metrics needs the names of measures after it"),
        (["--start-metrics", "sfe"], "--start-metrics: sfe compares two states of the weights"),
        (["--start-samples", "-1"], "--start-samples must be at least 0 (as the preset has it), got -1"),
        (["--start-every", "-1"], "--start-every must be at least 0 (as the preset has it), got -1"),
    ],
)
def test_measures_that_cannot_be_taken_are_refused_before_anything_is_trained(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMOKE, "--out", str(tmp_path / "out"), "--plugin", str(FILE), *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()
