"""SAC on a toy task: a session of it, and some updates."""

from __future__ import annotations

from replastic.learners import Trainer
from replastic.learners.sac import Sac, SacAgent
from replastic.methods import from_spec
from replastic.training import Protocol
from replastic.training.session import Session
from support.tiny_agents import AT_POINT
from support.toy_control import control

TASK = AT_POINT
TRAINER = Trainer(batch_size=5, learning_rate=1e-3, warmup=0.0, clip_norm=0.0, weight_decay=0.1, save_seconds=0.0)


def session(task: Sac = TASK, method: str = "base", trainer: Trainer = TRAINER, recipe: str = "paper-sac") -> Session:
    return Session(Protocol(task=task, trainer=trainer, recipe=recipe), control(), from_spec(method), 3)


def agent_of(run: Session) -> SacAgent:
    assert isinstance(run.learner, SacAgent)
    return run.learner


def played(run: Session, updates: int = 10, phase: int = 0) -> SacAgent:
    run.begin(phase)
    run.learner.begin(phase, 0)
    for _ in range(updates):
        run.update(1, 1)
    return agent_of(run)
