"""Heavy priming on MinAtar: a DQN agent learns from its first transitions for long, and then goes on as usual."""

from __future__ import annotations

from dataclasses import replace

from replastic.experiments import agents
from replastic.experiments.spec import BenchmarkSpec, Preset, register
from replastic.learners.dqn import Dqn
from replastic.networks.minatar_cnn import MinAtarCnn
from replastic.training import Protocol


@register("minatar_priming", reference="https://arxiv.org/abs/2205.07802")
def minatar_priming() -> BenchmarkSpec:
    """Sixty thousand updates on 2,000 transitions, then 40,000 interactions of DQN; score: return at the end."""
    task = Dqn(
        environment="minatar/breakout",
        steps=42_000,
        learning_starts=2000,
        priming=60_000,
        interventions=(),
        evaluations=10,
        episodes=32,
    )
    small = Protocol(
        task=task,
        trainer=agents.trainer(3e-4),
        recipe="paper-dqn",
        methods_from=1,
        metrics=agents.MEASURES,
        boundary_metrics=agents.BOUNDARY_MEASURES,
        probe_samples=512,
    )
    tiny = replace(
        small,
        task=replace(task, steps=80, learning_starts=40, priming=20, evaluations=2, episodes=2, longest=20),
        probe_samples=64,
    )
    unprimed = replace(small, task=replace(task, priming=0), methods_from=0)
    longer = replace(task, steps=502_000, priming=100_000, epsilon_steps=100_000, episodes=64)
    return BenchmarkSpec(
        name="minatar_priming",
        presets={
            "small": Preset(
                protocol=small,
                methods=(*agents.CONTROLS, *agents.AT_BOUNDARIES),
                seeds=8,
                help="Breakout; two to four minutes a run on one core, the priming once a seed",
            ),
            "training": Preset(
                protocol=small,
                methods=("base", "full_reset", *agents.IN_TRAINING),
                seeds=8,
                help="as small, methods that act while the agent trains",
                folder="small",
            ),
            "full": Preset(
                protocol=small, methods=agents.EVERY, seeds=8, help="as small, every method and control", folder="small"
            ),
            "layer_norm": Preset(
                protocol=replace(small, task=replace(task, network=MinAtarCnn(norm="layer"))),
                methods=(*agents.CONTROLS, "fire"),
                seeds=8,
                help="as small, with LayerNorm in the network",
            ),
            "reset_all": Preset(
                protocol=replace(small, trainer=agents.trainer(3e-4, optimizer_policy="reset_all")),
                methods=("base", "full_reset", "head_reset", "fire"),
                seeds=8,
                help="as small, but the optimizer's state is dropped after the priming for every method alike",
            ),
            "no_priming": Preset(
                protocol=unprimed,
                methods=("base",),
                seeds=8,
                help="as small without the priming: the return that it costs",
            ),
            "paper": Preset(
                protocol=replace(small, task=longer),
                methods=agents.EVERY,
                seeds=8,
                help="100,000 updates of priming as in the paper, half a million interactions; an hour a run",
            ),
            "smoke": Preset(protocol=tiny, methods=("base", "fire"), seeds=2, help="does it run? seconds"),
        },
        summary=agents.summary(),
    )
