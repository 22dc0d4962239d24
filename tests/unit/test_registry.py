"""Names from files, from entry points and from plug-in files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from replastic import methods
from replastic.errors import UnknownNameError, UserError
from replastic.registry import Registry, load_plugin

PLUGIN = '''
from dataclasses import dataclass
from replastic import methods

@methods.register("{name}", reference="https://example.org")
@dataclass(kw_only=True)
class Halve(methods.WeightMethod):
    """Halve every weight."""

    def solve(self, w, info, w0, generator):
        return w / 2
'''


def test_names_are_the_files_without_importing_them() -> None:
    code = (
        "import sys; from replastic import methods, metrics; names = methods.names(), metrics.names();"
        "assert 'fire' in names[0] and 'dfi' in names[1], names;"
        "assert not [m for m in sys.modules if m in ('replastic.methods.fire', 'replastic.metrics.dfi')]"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_unknown_name_offers_near_misses() -> None:
    with pytest.raises(UnknownNameError, match=r"unknown method 'fier'; did you mean 'fire'"):
        methods.get("fier")


def test_nothing_close_lists_what_there_is() -> None:
    with pytest.raises(UnknownNameError, match=r"known: .*base.*fire"):
        methods.get("zzzzzz")


def test_a_name_inside_the_package_must_be_its_files() -> None:
    registry: Registry[object] = Registry("method", "replastic.methods")

    class Stray:
        __module__ = "replastic.methods.fire"

    with pytest.raises(UserError, match="must live in a file of its own name"):
        registry.register("stray")(Stray)


def test_plugin_registers_once_and_cannot_replace_a_built_in(tmp_path: Path) -> None:
    good = tmp_path / "halve.py"
    good.write_text(PLUGIN.format(name="halve_for_test"))
    load_plugin(good)
    load_plugin(good)
    assert methods.entry("halve_for_test").summary == "Halve every weight."
    thief = tmp_path / "thief.py"
    thief.write_text(PLUGIN.format(name="fire"))
    with pytest.raises(UserError, match="'fire' is built in"):
        load_plugin(thief)
    twin = tmp_path / "twin.py"
    twin.write_text(PLUGIN.format(name="halve_for_test"))
    with pytest.raises(UserError, match="already registered by"):
        load_plugin(twin)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        ("import no_such_module_anywhere", "failed to import: ModuleNotFoundError"),
        ("import sys; sys.exit(3)", "failed to import: SystemExit"),
    ],
)
def test_a_broken_plugin_is_one_sentence(tmp_path: Path, content: str | None, message: str) -> None:
    file = tmp_path / "broken.py"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        load_plugin(file)
