"""Families of environments: one simulator a file. `from_spec` reads ``family/game:option=value``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.metadata import version
from typing import Any, ClassVar

from replastic.envs._environment import Environment
from replastic.errors import UserError, did_you_mean
from replastic.options import Settings, check_known, option, read
from replastic.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Family(Settings, ABC):
    """One game of a simulator, with its settings. Subclasses are keyword-only frozen dataclasses of options."""

    extra: ClassVar[str] = ""
    """Extra of this package that installs the simulator."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions decide how the game goes."""

    game: str = option("", help="name of the game, as the family calls it")

    @classmethod
    @abstractmethod
    def games(cls) -> Sequence[str]:
        """Every game that there is, by name.

        Raises:
            MissingExtraError: The simulator is not installed.
        """

    @abstractmethod
    def build(self, copies: int, *, training: bool = True, drawn: bool = False) -> Environment:
        """The environment before its first `reset`; see `make`."""

    def make(self, copies: int, seed: int, *, training: bool = True, drawn: bool = False) -> Environment:
        """New copies, ready to act in.

        Args:
            copies: Number of copies, at least 1.
            seed: Seed of all that they draw.
            training: False gives what evaluation wants: whole episodes, where training may end them at a lost life.
            drawn: Whether `Environment.render` will be called.

        Raises:
            UserError: The simulator cannot be used here, or a setting does not suit the game.
            MissingExtraError: The simulator is not installed.
        """
        if copies < 1:
            raise UserError(f"{self.spec}: copies must be at least 1, got {copies}")
        environment = self.build(copies, training=training, drawn=drawn)
        environment.reset(seed)
        return environment

    @property
    def spec(self) -> str:
        """The shortest text that `from_spec` reads as this."""
        given = [(f.name, getattr(self, f.name), f.default) for f in fields(self) if f.name != "game"]
        parts = [f"{name}={value}" for name, value, default in given if value != default]
        return f"{self.name}/{self.game}" + (f":{','.join(parts)}" if parts else "")

    def facts(self) -> dict[str, Any]:
        """Facts for run.json: the environment, how a resumed run goes on in it, and versions of the simulator."""
        environment = self.build(1)
        facts = {"environment": self.spec, "environment_resumes": environment.resumes}
        environment.close()
        return {**facts, **{f"version_{name}": version(name) for name in self.packages}}


REGISTRY: Registry[type[Family]] = Registry("environment", "replastic.envs")
register, names, get, entry = REGISTRY.register, REGISTRY.names, REGISTRY.get, REGISTRY.entry


def from_spec(spec: str) -> Family:
    """The game a text describes: ``family/game`` or ``family/game:option=value,option=value``.

    Raises:
        UserError: No such family, game or option; the message offers near misses.
        MissingExtraError: The simulator is not installed, so that its games are not known.
    """
    place, colon, rest = spec.partition(":")
    family, slash, game = (part.strip() for part in place.partition("/"))
    if not slash or not game:
        raise UserError(f"environment {spec!r} must be family/game{did_you_mean(place, _everything(), _families())}")
    kind, given = read(f"{family}{colon}{rest}", get)
    check_known(family, kind, given)
    if "game" in given:
        raise UserError(f"environment {spec!r} names its game before the colon: leave game= out")
    return kind(game=known_game(kind, game), **given)


def known_game(kind: type[Family], game: str) -> str:
    """The game as its family calls it, whatever the case and the underscores of `game`.

    Raises:
        UserError: There is none of that name; the message offers near misses.
    """
    known = kind.games()
    if game in known:
        return game
    alike = [name for name in known if _plain(name) == _plain(game)]
    if len(alike) == 1:
        return alike[0]
    few = f"; known: {', '.join(known)}" if len(known) <= 30 else f"; it has {len(known)}"
    raise UserError(f"{kind.name} has no game {game!r}{did_you_mean(game, known, few)}")


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _families() -> str:
    return f"; families: {', '.join(names())}"


def _everything() -> list[str]:
    """Every game of every family whose simulator is installed, but none that only changes another."""
    found = []
    for name in names():
        try:
            found += [f"{name}/{game}" for game in get(name).games() if "/" not in game]
        except UserError:  # its simulator is not installed
            continue
    return found
