"""Runs on several networks in one report: told apart by their labels, and only where that is asked for."""

from pathlib import Path

import pytest

from replastic import cli
from replastic.errors import UserError
from replastic.report import final_table, load, networks
from replastic.report.controls import is_control
from replastic.report.summary import sentences
from replastic.report.words import labels

RELU = {"network": {"type": "Mlp", "hidden": [64, 64], "norm": "none"}}
LAYER = {"network": {"type": "Mlp", "hidden": [64, 64], "norm": "layer"}}
WIDE = {"network": {"type": "Mlp", "hidden": [128, 32], "norm": "layer"}}
OTHER = {"network": {"type": "ConvNet", "channels": [8]}}


@pytest.fixture
def folders(tmp_path: Path, write_run) -> list[Path]:
    runs = {"a": (RELU, 0.2), "b": (LAYER, 0.7), "c": (WIDE, 0.6), "d": (OTHER, 0.8)}
    for folder, (config, score) in runs.items():
        for seed in range(3):
            write_run(tmp_path / folder, "base", seed, [0.9, score + 0.01 * seed], config=config)
            write_run(tmp_path / folder, "fire:scale=unit", seed, [0.9, 0.9], config=config)
    return [tmp_path / folder for folder in runs]


def test_rows_name_the_settings_in_which_their_network_differs_from_the_first(folders) -> None:
    found = load(folders, several_networks=True)
    assert found.methods == (
        "base",
        "fire:scale=unit",
        "base (network: norm=layer)",
        "fire:scale=unit (network: norm=layer)",
        "base (network: hidden=128 32, norm=layer)",
        "fire:scale=unit (network: hidden=128 32, norm=layer)",
        "base (network: ConvNet)",
        "fire:scale=unit (network: ConvNet)",
    )
    assert found.settings["network"] == RELU["network"]
    table = final_table(found)
    assert table.reference == "base"
    by_method = {row.method: row for row in table.rows}
    gain = by_method["base (network: norm=layer)"].difference
    assert gain.mean == pytest.approx(0.5)
    assert gain.n == 3, "paired by seed"
    assert "4 networks are compared" in " ".join(sentences(table))


def test_the_order_of_the_folders_says_which_network_has_plain_names(folders) -> None:
    found = load(folders[1::-1], several_networks=True)
    assert found.methods[:3] == ("base", "fire:scale=unit", "base (network: norm=none)")
    assert found.settings["network"] == LAYER["network"]


def test_without_asking_it_is_refused_and_other_settings_always_are(folders, tmp_path, write_run) -> None:
    with pytest.raises(UserError, match=r"network\.norm: 'none' and 'layer'.*--networks"):
        load(folders[:2])
    write_run(tmp_path / "e", "base", 7, [0.5, 0.5], config={**LAYER, "steps": 301})
    with pytest.raises(UserError, match="steps: 300 and 301"):
        load([folders[0], tmp_path / "e"], several_networks=True)


def test_one_network_is_shown_as_ever(folders) -> None:
    assert load(folders[0], several_networks=True) == load(folders[0])


def test_labels_are_short_and_controls_are_known_on_any_network() -> None:
    specs = ("base", "base (network: norm=layer)", "fire:scale=unit (network: norm=layer)", "fire:scale=unit")
    assert labels(specs)["fire:scale=unit (network: norm=layer)"] == "fire (network: norm=layer)"
    assert labels(specs)["fire:scale=unit"] == "fire"
    assert is_control("rescale (network: norm=layer)")
    assert not is_control("fire:scale=unit (network: norm=layer)")
    assert networks.split("base") == ("base", "")


def test_the_command_prints_both(folders, tmp_path, capsys) -> None:
    given = [str(folder) for folder in folders[:2]]
    assert cli.main(["report", *given, "--networks", "--out", str(tmp_path / "both")]) == 0
    assert "base (network: norm=layer)" in capsys.readouterr().out
    assert "base (network: norm=layer)" in (tmp_path / "both" / "report.html").read_text()
    assert cli.main(["report", *given, "--out", str(tmp_path / "none")]) == 2
