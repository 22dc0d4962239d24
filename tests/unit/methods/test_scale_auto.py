"""scale=auto: the network decides which scale its weights get."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import replastic
from replastic.errors import UserError
from replastic.linalg import polar

Batch = tuple[Tensor, Tensor]


def network(norms: bool = True) -> nn.Sequential:
    """One kernel and one Linear before norms (or none), one Linear before none; and an output layer."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.BatchNorm2d(6) if norms else nn.Identity(),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(96, 12),
            nn.LayerNorm(12) if norms else nn.Identity(),
            nn.Linear(12, 8),
            nn.LayerNorm(8) if norms else nn.Identity(),
            nn.Linear(8, 4),
        ).double()


def data() -> list[Batch]:
    draw = torch.Generator().manual_seed(0)
    return [(torch.randn(8, 3, 6, 6, generator=draw).double(), torch.randint(4, (8,), generator=draw))]


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def rewritten(method: str, norms: bool = True, **options: Any) -> dict[str, Tensor]:
    model = network(norms)
    replastic.apply_(method, model, batches=data(), loss_fn=loss_fn, seed=5, **options)
    return dict(model.state_dict())


def test_a_network_of_norms_gets_the_papers_scale_by_hand() -> None:
    new, old = rewritten("fire", scale="auto"), network().state_dict()
    kernel = old["0.weight"].permute(2, 3, 0, 1).reshape(9, 6, 3)
    factors = polar(kernel, "svd").factor * (6 / 3) ** 0.5 / 9
    torch.testing.assert_close(new["0.weight"].permute(2, 3, 0, 1).reshape(9, 6, 3), factors)
    torch.testing.assert_close(new["4.weight"], polar(old["4.weight"], "svd").factor * (12 / 96) ** 0.5)
    assert torch.equal(new["8.weight"], old["8.weight"])


def test_a_network_without_norms_keeps_its_own() -> None:
    new, old = rewritten("fire", norms=False, scale="auto"), network(norms=False).state_dict()
    for name in ("4.weight", "6.weight"):
        torch.testing.assert_close(new[name].norm(), old[name].norm())
        torch.testing.assert_close(polar(new[name], "svd").factor, polar(old[name], "svd").factor)


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("method", ["fire", "rescale", "random_isometry", "noise_matched"])
def test_every_matched_method_takes_the_same_scale(method: str, norms: bool) -> None:
    auto, modular, preserve = (rewritten(method, norms, scale=scale) for scale in ("auto", "modular", "preserve"))
    for name in ("0.weight", "4.weight", "6.weight"):
        torch.testing.assert_close(auto[name], (modular if norms else preserve)[name], rtol=1e-12, atol=1e-12)
    assert not torch.equal(modular["4.weight"], preserve["4.weight"])


def test_half_of_the_weights_before_norms_is_not_most() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6), nn.Linear(6, 2)).double()
    before = model[0].weight.detach().norm()
    batch = (torch.randn(5, 6).double(), torch.randint(2, (5,)))
    replastic.fire_(model, scale="auto", batches=[batch], loss_fn=loss_fn)
    torch.testing.assert_close(model[0].weight.detach().norm(), before)


def test_a_recipe_does_not_overrule_the_scale_given_by_hand() -> None:
    by_hand = rewritten("fire", norms=False, scale="auto", recipe="paper-cnn", solver="exact")
    torch.testing.assert_close(by_hand["4.weight"].norm(), network(norms=False).state_dict()["4.weight"].norm())


def test_the_model_is_untouched_where_something_is_missing() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(UserError, match="pass batches="):
        replastic.fire_(model, scale="auto", loss_fn=loss_fn)
    with pytest.raises(UserError, match="there is none"):
        replastic.fire_(model, scale="auto", batches=[], loss_fn=loss_fn)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_files_name_what_can_be_done_instead(tmp_path) -> None:
    torch.save(network().state_dict(), tmp_path / "model.pt")
    with pytest.raises(UserError, match="fire:scale=preserve"):
        replastic.rewrite(tmp_path / "model.pt", tmp_path / "new.pt", method="fire", scale="auto")


def test_a_rule_of_a_recipe_may_ask_for_it(tmp_path) -> None:
    recipe = tmp_path / "auto.toml"
    recipe.write_text('summary = "auto"\n[[rule]]\nmatch = ["kind:linear"]\noptions = { scale = "auto" }\n')
    with pytest.raises(UserError, match="it needs the live model, batches=<data> and loss_fn="):
        replastic.fire_(network(), recipe=recipe)
