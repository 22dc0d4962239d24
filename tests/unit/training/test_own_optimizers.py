"""Methods that train with an optimizer of their own, in a run: its settings, its schedule, its first steps."""

import torch

from replastic import methods
from support.small_runs import begun, trained_by


def test_without_strength_a_run_is_that_of_base_to_the_bit(protocol, splits):
    ends = []
    for spec in ("base", "adamo:strength=0", "adamo"):
        with begun(protocol, splits, methods.from_spec(spec)) as session:
            session.learner.begin(0, 0)
            for step in range(10):
                session.update(step, 20)
            ends.append([p.detach().clone() for p in session.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(ends[0], ends[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(ends[0], ends[2], strict=True))


def test_the_warm_up_of_a_run_scales_both_steps(protocol, splits):
    method = methods.from_spec("adamo:isometry_lr=0.5")
    with begun(trained_by(protocol, warmup=0.2), splits, method) as session:
        session.learner.begin(0, 0)
        session.update(0, 20)  # The first of four updates of warm-up.
        (group,) = session.attached.optimizer.param_groups
        assert (group["lr"], group["initial_lr"], group["isometry_lr"]) == (0.25e-3, 1e-3, 0.5)
