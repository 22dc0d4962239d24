"""Methods that go back to checkpoints: which one, the mean by hand, and what cannot be had."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from replastic import methods
from replastic.errors import UserError
from replastic.methods import Checkpoint

RunOn = Callable[..., methods.Run]
Proposed = Callable[..., tuple[dict[str, Tensor], Any]]


class Tied(nn.Module):
    """A table that is also the output, statistics, and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.table.weight


def network(number: int) -> Tied:
    with torch.random.fork_rng():
        torch.manual_seed(number)
        model = Tied().double()
        with torch.no_grad():
            for value in (*model.parameters(), model.norm.running_mean, model.norm.running_var):
                value.copy_(torch.rand_like(value))
            model.norm.num_batches_tracked.fill_(10 * number)
    return model


def table(number: int) -> Mapping[str, Tensor]:
    """As a file has it, each tied tensor once."""
    return {name: value for name, value in network(number).state_dict().items() if name != "head.weight"}


KEPT = [Checkpoint(100 * number, partial(table, number), best=number == 2) for number in range(1, 5)]


@pytest.mark.parametrize(("at", "number"), [("best", 2), ("last", 4), ("300", 3), ("100", 1)])
def test_the_whole_network_goes_back(at: str, number: int, run_on: RunOn, proposed: Proposed) -> None:
    new, _ = proposed(methods.from_spec(f"from_checkpoint:at={at}"), run_on(network(0), checkpoints=KEPT, phase=1))
    wanted = table(number)
    assert new.keys() == wanted.keys()
    assert all(torch.equal(new[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("last", [2, 3, 4])
def test_the_average_is_the_mean_by_hand(last: int, run_on: RunOn, proposed: Proposed) -> None:
    new, _ = proposed(methods.from_spec(f"average:last={last}"), run_on(network(0), checkpoints=KEPT, phase=1))
    chosen = [table(number) for number in range(5 - last, 5)]
    assert new.keys() == chosen[-1].keys()
    for name, value in new.items():
        if name == "norm.num_batches_tracked":
            assert value == 40
        else:
            torch.testing.assert_close(value, torch.stack([one[name] for one in chosen]).mean(0), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("spec", "kept", "words"),
    [
        ("from_checkpoint:at=150", KEPT, "none after update 150; .* there are 100, 200, 300, 400"),
        ("from_checkpoint", [KEPT[0]], "none is known to be the best"),
        ("from_checkpoint", [], "of the phase that has ended there are none"),
        ("average:last=6", KEPT, "there are 4: take last=4"),
        ("average", None, "average needs checkpoints .*--checkpoints"),
        (
            "from_checkpoint:at=1",
            [Checkpoint(1, lambda: {"table.weight": torch.zeros(5, 4)})],
            "but .5, 4. among the weights of the check",
        ),
        (
            "from_checkpoint:at=1",
            [Checkpoint(1, dict)],
            "needs the value of table.weight, which is not among the weights of the checkpoint",
        ),
    ],
)
def test_what_cannot_be_had_is_named(
    spec: str, kept: list[Checkpoint] | None, words: str, run_on: RunOn, proposed: Proposed
) -> None:
    model = network(0)
    with pytest.raises(UserError, match=words):
        proposed(methods.from_spec(spec), run_on(model, checkpoints=kept, phase=1))
    assert all(torch.equal(value, network(0).state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("wrong", ["bset", "", "-3", "1.5"])
def test_a_place_that_is_none_is_refused_at_once(wrong: str) -> None:
    with pytest.raises(UserError, match="at must be best, last or the number of an update"):
        methods.from_spec("from_checkpoint", at=wrong)


def test_other_methods_go_on_from_the_checkpoint(run_on: RunOn, proposed: Proposed) -> None:
    spec = "from_checkpoint:at=300+shrink_perturb:shrink=0.5,noise=gaussian,perturb_std=0"
    new, _ = proposed(methods.from_spec(spec), run_on(network(0), checkpoints=KEPT, phase=1))
    torch.testing.assert_close(new["norm.weight"], 0.5 * table(3)["norm.weight"], rtol=1e-14, atol=0)
    assert torch.equal(new["norm.running_mean"], table(3)["norm.running_mean"])


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("fire+from_checkpoint", "from_checkpoint must come first in fire.from_checkpoint"),
        ("ewc+average", "average must come first"),
        ("from_checkpoint+average", "cannot be combined: each puts earlier weights"),
        ("from_checkpoint+fire+lr_matched", "lr_matched must come first"),
    ],
)
def test_places_in_a_combination(spec: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        methods.from_spec(spec)
    methods.from_spec("from_checkpoint+lr_matched+fire")
