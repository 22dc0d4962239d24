"""Names of what is run, and the settings of speed that a folder was begun with."""

import re

import pytest

from replastic import benchmarks, methods
from replastic.errors import UserError
from replastic.experiments.runs import folder_name
from replastic.experiments.spec import every_method
from replastic.experiments.speed import settle


def test_every_method_follows_the_registry():
    specs = every_method("fire:solver=exact", interpolation="interpolation:strength=0.5")
    assert {text.split(":")[0] for text in specs} == set(methods.names())
    assert "interpolation" not in specs
    assert specs[-1] == "fire:solver=exact"


@pytest.mark.parametrize(
    ("spec", "folder"),
    [
        ("base", "base"),
        ("fire:solver=exact,scale=init", "fire-solver=exact-scale=init"),
        ("a/../b: c", "a-..-b-c"),
    ],
)
def test_a_methods_folder_is_one_plain_name(spec, folder):
    assert folder_name(spec) == folder


def test_long_specs_have_short_folders_of_their_own():
    specs = ["fire:targets=" + "|".join(["stem"] * 70 + [last]) for last in ("head", "tail")]
    names = [folder_name(spec) for spec in specs]
    assert names[0] != names[1]
    assert all(len(name) < 200 and name.startswith("fire-targets=stem-stem") for name in names)


@pytest.mark.parametrize("name", ["run.json", "shared.json"])
@pytest.mark.parametrize("content", [b'{"config": ', b"[1]", b"\xff\xfe"])
def test_settings_of_speed_in_a_damaged_file(name, content, tmp_path):
    folder = tmp_path / "base" / "seed-0"
    folder.mkdir(parents=True)
    (folder / name).write_bytes(content)
    protocol = benchmarks.get("digits_warm_start")().presets["smoke"].protocol
    with pytest.raises(UserError, match=f"{re.escape(name)} is damaged: .*move .*seed-0 away"):
        settle(protocol, tmp_path, "cpu")
