"""The smallest agents that still do everything: DQN in a corridor, SAC at a point."""

from __future__ import annotations

from replastic.learners.dqn import Dqn
from replastic.learners.sac import Sac
from replastic.networks.minatar_cnn import MinAtarCnn
from replastic.networks.simba import Simba

IN_CORRIDOR = Dqn(
    environment="toy/corridor",
    steps=60,
    learning_starts=12,
    buffer_size=200,
    evaluations=3,
    episodes=2,
    longest=10,
    epsilon_steps=20,
    target_every=7,
    network=MinAtarCnn(channels=(3,), hidden=(8,)),
)
TINY = Simba(width=6, blocks=1, expansion=2)
AT_POINT = Sac(
    environment="toy_control/point",
    steps=60,
    learning_starts=12,
    buffer_size=200,
    evaluations=3,
    episodes=2,
    longest=20,
    network=TINY,
    actor="simba:width=6,blocks=1,expansion=2",
)
