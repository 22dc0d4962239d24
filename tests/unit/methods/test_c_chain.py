"""C-CHAIN by hand: the term, its strength, the batches it takes, and a new beginning where weights were replaced."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from replastic import recipes
from replastic.errors import UserError
from replastic.interventions.attached import Attached
from replastic.interventions.run import Run
from replastic.methods import c_chain, from_spec
from replastic.weights.change import Change, Proposal
from replastic.weights.module_store import ModuleStore

BATCHES = [(torch.randn(6, 4, generator=torch.Generator().manual_seed(i)), torch.randn(6, 3)) for i in range(4)]


def attached(spec, model, batches=BATCHES, loss_fn=None):
    run = Run(
        store=ModuleStore(model),
        recipe=recipes.load("all"),
        model=model,
        batches=lambda: iter(batches),
        loss_fn=loss_fn or (lambda m, batch: functional.mse_loss(m(batch[0]), batch[1])),
        seed=1,
    )
    found = Attached(from_spec(spec), run, {"": torch.optim.SGD(model.parameters(), lr=0.1)})
    found.begin(0)
    return found


def update(method, batch):
    """One update as a loop makes it; the loss without the term, and the term."""
    terms = []

    def closure():
        method.optimizer.zero_grad()
        loss, term = method.run.loss_fn(method.run.model, batch), method.penalty()
        terms.append(term)
        torch.autograd.backward(loss if term is None else loss + term)
        return loss.detach()

    loss = method.backward(closure)
    method.optimizer.step()
    method.after_update()
    return float(loss), terms[0]


def moved(model, before, batch):
    return functional.mse_loss(model(batch[0]), torch.func.functional_call(model, before, (batch[0],)).detach())


def copy_of(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_the_term_is_the_churn_of_the_last_update_on_the_reference_batch():
    torch.manual_seed(0)
    model, reference = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), BATCHES[3]
    with attached("c_chain:strength=7,ratio=0", model, [reference]) as method:
        assert method.penalty() is None
        for number in range(6):
            before = copy_of(model)
            update(method, BATCHES[number % 3])
            term = method.method._churn(method.run, reference)
            expected = moved(model, before, reference)
            assert float(expected.detach()) > 0
            assert float(term.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
            wanted = torch.autograd.grad(expected, list(model.parameters()))
            found = torch.autograd.grad(term, list(model.parameters()))
            assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found, wanted, strict=True))


def test_each_update_has_a_reference_batch_of_its_own_pass_after_pass():
    taken = []

    def loss_fn(m, batch):
        taken.append(int(batch[2]))
        return functional.mse_loss(m(batch[0]), batch[1])

    model, numbered = nn.Linear(4, 3), [(*batch, torch.tensor(i)) for i, batch in enumerate(BATCHES)]
    with attached("c_chain", model, numbered, loss_fn) as method:
        taken.clear()
        update(method, numbered[0])
        for _ in range(9):
            method.penalty()
    assert taken == [0, *(i % 4 for i in range(9))]


def test_the_penalty_is_the_term_times_the_strength():
    torch.manual_seed(0)
    model = nn.Linear(4, 3)
    with attached("c_chain:strength=7,ratio=0", model) as method:
        before = copy_of(model)
        update(method, BATCHES[0])
        now = copy_of(model)
        _, term = update(method, BATCHES[1])
        change = BATCHES[0][0] @ (now["weight"] - before["weight"]).T + (now["bias"] - before["bias"])
        assert float(term.detach()) == pytest.approx(7 * float(change.square().mean()), rel=1e-4)


def test_later_the_term_is_a_share_of_the_mean_size_of_the_loss(monkeypatch):
    """Both sizes are those on the reference batches, one look an update here."""
    monkeypatch.setattr(c_chain, "LOOK", 1)
    torch.manual_seed(0)
    model, reference = nn.Linear(4, 3), BATCHES[3]
    losses, terms = [], []
    with attached("c_chain:strength=5,ratio=0.25,after=4,window=1000", model, [reference]) as method:
        for number in range(8):
            loss, raw = float(method.run.loss_fn(model, reference).detach()), 0.0
            if number:
                raw = float(method.method._churn(method.run, reference).detach())
                losses.append(abs(loss))
                terms.append(raw)
            _, penalty = update(method, BATCHES[number % 3])
            if not number:
                assert penalty is None
                continue
            weight = 5.0
            if number >= 4:
                weight = 0.25 * (sum(losses) / len(losses)) / (sum(terms) / len(terms) + 1e-8)
            assert float(penalty.detach()) == pytest.approx(weight * raw, rel=1e-4)
    assert len(losses) == 7


def test_sizes_are_looked_at_now_and_then(monkeypatch):
    model = nn.Linear(4, 3)
    with attached("c_chain", model) as method:
        looks = []
        monkeypatch.setattr(type(method.method), "_look", lambda self, *_: looks.append(self._updates))
        for _ in range(25):
            update(method, BATCHES[0])
        assert looks == [10, 20]


def test_where_weights_were_replaced_the_term_begins_anew():
    model = nn.Linear(4, 3)
    with attached("c_chain", model) as method:
        update(method, BATCHES[0])
        assert method.penalty() is not None
        method._write(Change([Proposal("weight", torch.ones(3, 4))]), "keep", between_phases=True)
        assert method.penalty() is None
        update(method, BATCHES[0])
        assert float(method.penalty().detach()) > 0


def test_of_several_networks_the_terms_add_up():
    torch.manual_seed(0)
    model = nn.ModuleDict({"actor": nn.Linear(4, 2), "critic": nn.Linear(4, 3)})

    def loss_fn(m, batch):
        return functional.mse_loss(m["critic"](batch[0]), batch[1]) + m["actor"](batch[0]).square().mean()

    with attached("c_chain:strength=1,ratio=0", model, loss_fn=loss_fn) as method:
        before = copy_of(model)
        update(method, BATCHES[0])
        total = 0.0
        for name in ("actor", "critic"):
            part = {n.removeprefix(f"{name}."): v for n, v in before.items() if n.startswith(name)}
            total += float(moved(model[name], part, BATCHES[0]).detach())
        assert float(method.penalty().detach()) == pytest.approx(total, rel=1e-5)


def test_a_loss_that_calls_no_network_is_refused():
    model = nn.Linear(4, 3)
    with pytest.raises(UserError, match="loss_fn does not call the model"):
        attached("c_chain", model, loss_fn=lambda m, batch: m.weight.square().sum())
