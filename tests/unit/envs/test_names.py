"""Names of environments, and one clear sentence for each way to get them wrong."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from replastic import envs
from replastic.errors import MissingExtraError, UnknownNameError, UserError

needs_minatar = pytest.mark.skipif(importlib.util.find_spec("minatar") is None, reason="minatar is not installed")
needs_ale = pytest.mark.skipif(importlib.util.find_spec("ale_py") is None, reason="ale-py is not installed")


def test_games_are_found_whatever_their_case() -> None:
    assert envs.from_spec("minatar/Space-Invaders").spec == "minatar/space_invaders"
    assert envs.from_spec("minatar/breakout:sticky=0.2,ramping=no").spec == "minatar/breakout:sticky=0.2,ramping=False"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("minatar/brekout", "minatar has no game 'brekout'; did you mean 'breakout'?"),
        ("minatar/qqqq", "minatar has no game 'qqqq'; known: asterix, breakout, freeway, seaquest, space_invaders"),
        ("minatar/breakout:stiky=1", "minatar has no option 'stiky'; did you mean 'sticky'?"),
        ("minatar/breakout:sticky=2", "minatar: sticky must lie in [0, 1], got 2"),
        ("minatar/breakout:game=asterix", "names its game before the colon: leave game= out"),
        ("12345", "environment '12345' must be family/game; families: atari, dm_control, gym, "),
    ],
)
def test_wrong_names_are_answered_with_near_ones(spec: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        envs.from_spec(spec)
    assert said in str(caught.value)


def test_an_unknown_family_is_answered_with_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="unknown environment 'minatr'; did you mean 'minatar'"):
        envs.from_spec("minatr/breakout")


@needs_ale
def test_atari_games_have_the_names_that_people_use() -> None:
    for name in ("Asterix", "BeamRider", "DemonAttack", "MsPacman", "UpNDown", "Qbert"):
        assert envs.from_spec(f"atari/{name}").spec == f"atari/{name}"
    assert envs.from_spec("atari/beam_rider").spec == "atari/BeamRider"
    assert len(envs.get("atari").games()) > 100
    with pytest.raises(UserError, match="atari has no game 'BeamRidr'; did you mean 'BeamRider'"):
        envs.from_spec("atari/BeamRidr")


@needs_minatar
def test_too_few_channels_or_copies_are_refused() -> None:
    with pytest.raises(UserError, match="channels must be at least 4, those of the game, or 0"):
        envs.from_spec("minatar/breakout:channels=3").make(1, 0)
    with pytest.raises(UserError, match="minatar/breakout: copies must be at least 1, got 0"):
        envs.from_spec("minatar/breakout").make(0, 0)


@pytest.mark.parametrize(
    ("spec", "module", "said"),
    [
        ("atari/Asterix", "ale_py", "Atari needs ale_py, which is not installed: pip install 'replastic[rl]'"),
        (
            "gym/CartPole-v1",
            "gymnasium",
            "Gymnasium needs gymnasium, which is not installed: pip install 'replastic[rl]'",
        ),
        (
            "dm_control/humanoid-walk",
            "dm_control",
            "dm_control needs dm_control, which is not installed: pip install 'replastic[mujoco]'",
        ),
    ],
)
def test_a_missing_simulator_is_named_with_its_extra(
    spec: str, module: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as caught:
        envs.from_spec(spec).make(1, 0)
    assert str(caught.value) == said


def test_a_missing_minatar_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if "minatar_" in name or name.split(".")[0] == "minatar"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "minatar", None)
    with pytest.raises(MissingExtraError, match=r"MinAtar needs minatar, which is not installed: pip install 'repl"):
        envs.from_spec("minatar/breakout").make(1, 0)
