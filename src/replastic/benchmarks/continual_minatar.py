"""Continual MinAtar: one double DQN agent plays three games, one after the other."""

from __future__ import annotations

from dataclasses import replace

from replastic.experiments import agents
from replastic.experiments.spec import BenchmarkSpec, Preset, register
from replastic.learners.dqn import Dqn
from replastic.networks.minatar_cnn import MinAtarCnn
from replastic.training import Protocol

GAMES = "minatar/space_invaders:channels=10+minatar/asterix:channels=10+minatar/seaquest:channels=10"
"""Channels of all games are filled up to those of the one with the most."""


@register("continual_minatar", reference="https://arxiv.org/abs/2506.00592")
def continual_minatar() -> BenchmarkSpec:
    """SpaceInvaders, Asterix, Seaquest, 100,000 frames each; score: return at the end of each game's time."""
    task = Dqn(
        environment=GAMES,
        steps=100_000,
        interventions=(),
        learning_starts=5000,
        restart=True,
        double=True,
        td_loss="squared",
        adam_eps=1e-8,
        epsilon_steps=50_000,
        evaluations=10,
        episodes=16,
    )
    small = Protocol(
        task=task,
        trainer=agents.trainer(3e-4),
        recipe="paper-dqn",
        metrics=agents.MEASURES,
        boundary_metrics=agents.BOUNDARY_MEASURES,
        probe_samples=512,
    )
    longer = replace(task, steps=2_000_000, learning_starts=10_000, epsilon_steps=100_000, evaluations=40, episodes=10)
    tiny = replace(task, steps=60, learning_starts=40, evaluations=2, episodes=2, longest=20)
    return BenchmarkSpec(
        name="continual_minatar",
        presets={
            "small": Preset(
                protocol=small,
                methods=(*agents.CONTROLS, "fire", "c_chain"),
                seeds=3,
                help="six minutes and more a run on one core",
            ),
            "full": Preset(
                protocol=small, methods=agents.EVERY, seeds=3, help="as small, with every method", folder="small"
            ),
            "layer_norm": Preset(
                protocol=replace(small, task=replace(task, network=MinAtarCnn(norm="layer"))),
                methods=("base", "full_reset", "fire"),
                seeds=3,
                help="as small, with LayerNorm in the network",
            ),
            "paper": Preset(
                protocol=replace(small, task=longer),
                methods=agents.EVERY,
                seeds=10,
                help="two million frames of each game, as in C-CHAIN's code; hours a run",
            ),
            "smoke": Preset(
                protocol=replace(small, task=tiny, probe_samples=64),
                methods=("base", "fire"),
                seeds=2,
                help="does it run? seconds",
            ),
        },
        summary=agents.summary(phase_label="game"),
    )
