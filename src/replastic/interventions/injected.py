"""A classifier with frozen pairs beside it: found in a network, copied, and the modules that replace its own."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from torch import Tensor, nn

Pair = tuple[nn.Sequential, nn.Sequential]
"""Frozen copies of a classifier: old weights, fresh weights."""


class Cell:
    """Carries what goes into the classifier from its first layer to its last, within one pass."""

    value: Tensor | None = None


class Tapped(nn.Sequential):
    """A hidden layer that notes its input; its own layers keep their names."""

    def __init__(self, layers: nn.Sequential, cell: Cell) -> None:
        super().__init__(OrderedDict(layers.named_children()))
        self.cell = cell

    def forward(self, input: Tensor) -> Tensor:
        """As without the tap."""
        self.cell.value = input
        output: Tensor = super().forward(input)  # type: ignore[no-untyped-call]
        return output


class Injected(nn.Linear):
    """The last Linear, plus old(x) - fresh(x) for every frozen pair, where x is what goes into the classifier.

    Shapes: (B, ..., d_in) -> (B, ..., d_out).
    """

    def __init__(self, last: nn.Linear, pairs: Sequence[Pair], cell: Cell | None) -> None:
        nn.Module.__init__(self)  # that of Linear would draw new weights
        self.in_features, self.out_features = last.in_features, last.out_features
        self.weight, self.bias = last.weight, last.bias
        self.old = nn.ModuleList(old for old, _ in pairs)
        self.fresh = nn.ModuleList(fresh for _, fresh in pairs)
        self.cell = cell
        self.train(last.training)

    def forward(self, input: Tensor) -> Tensor:
        """The sum."""
        output = super().forward(input)
        into = input
        if self.cell is not None:
            assert self.cell.value is not None
            into, self.cell.value = self.cell.value, None
        for old, fresh in zip(self.old, self.fresh, strict=True):
            output = output + (old(into) - fresh(into))
        return output

    def train(self, mode: bool = True) -> Injected:
        """Frozen copies stay in evaluation mode."""
        super().train(mode)
        self.old.eval()
        self.fresh.eval()
        return self


class Classifier(NamedTuple):
    """The modules from the first hidden layer of a network's classifier to its last Linear."""

    model: nn.Module
    names: tuple[str, ...]
    """Of the modules, in order."""
    plain: nn.Sequential
    """A frozen copy without pairs, from which others are made."""

    def parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The trained parameters with their names in the model."""
        inside = dict(self.plain.named_parameters())
        for name, parameter in self.model.named_parameters():
            if self._inner(name) in inside:
                yield name, parameter

    def state(self) -> dict[str, Tensor]:
        """Trained parameters and buffers as they are, by their names in the model."""
        inside = self.plain.state_dict()
        return {n: v.detach() for n, v in self.model.state_dict().items() if self._inner(n) in inside}

    def copy(self, values: Mapping[str, Tensor]) -> nn.Sequential:
        """A frozen copy of the classifier with these values."""
        made = copy.deepcopy(self.plain)
        made.load_state_dict({self._inner(name): value for name, value in values.items()})
        return made

    def pairs(self) -> list[Pair]:
        """The frozen pairs that are in place."""
        last = self.model.get_submodule(self.names[-1])
        return list(zip(last.old, last.fresh, strict=True)) if isinstance(last, Injected) else []  # type: ignore[arg-type]

    def with_pairs(self, pairs: Sequence[Pair]) -> dict[str, nn.Module]:
        """The modules to put in place so that the classifier has these pairs, by name."""
        first, last = (self.model.get_submodule(self.names[i]) for i in (0, -1))
        assert isinstance(last, nn.Linear)
        if len(self.names) == 1:
            return {self.names[-1]: Injected(last, pairs, None)}
        if isinstance(first, Tapped):
            return {self.names[-1]: Injected(last, pairs, first.cell)}
        assert isinstance(first, nn.Sequential)
        cell = Cell()
        return {self.names[0]: Tapped(first, cell), self.names[-1]: Injected(last, pairs, cell)}

    def _inner(self, name: str) -> str:
        """A name in the model as a name in `plain`; empty for one outside the module that holds the classifier."""
        parent = self.names[-1].rpartition(".")[0]
        if not parent:
            return name
        return name.removeprefix(f"{parent}.") if name.startswith(f"{parent}.") else ""


def find_classifiers(model: nn.Module, hidden: int, heads: Sequence[str] = ()) -> list[Classifier]:
    """The last Linear of a network with up to `hidden` hidden layers before it; none if there is no Linear.

    A hidden layer is a sibling right before the last Linear in an `nn.Sequential`, is an `nn.Sequential` itself, and
    has one Linear and nothing else with parameters. Classifiers that have pairs already are found as they are.

    Args:
        model: The network, or several as children of one module.
        hidden: Most hidden layers.
        heads: Names of the last Linears, of several networks or of one with several heads; without them the last of
            all Linears is taken.
    """
    injected = [(name, m) for name, m in model.named_modules() if isinstance(m, Injected)]
    if injected:
        return [_with_pairs(model, name, last) for name, last in injected]
    linears = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
    names = [name for name in linears if name in heads] or linears[-1:]
    return [_without_pairs(model, name, hidden) for name in names if name]


def _with_pairs(model: nn.Module, name: str, last: Injected) -> Classifier:
    plain = last.fresh[-1]
    assert isinstance(plain, nn.Sequential)
    parent = name.rpartition(".")[0]
    names = [f"{parent}.{key}" if parent else key for key, _ in plain.named_children()]
    return Classifier(model, tuple(names), plain)


def _without_pairs(model: nn.Module, last: str, hidden: int) -> Classifier:
    parent, _, key = last.rpartition(".")
    siblings = OrderedDict(model.get_submodule(parent).named_children())
    keys = list(siblings)
    first = keys.index(key)
    if isinstance(model.get_submodule(parent), nn.Sequential):
        while first > 0 and keys.index(key) - first < hidden and _is_hidden(siblings[keys[first - 1]]):
            first -= 1
    chosen = keys[first : keys.index(key) + 1]
    plain = nn.Sequential(OrderedDict((k, copy.deepcopy(siblings[k])) for k in chosen)).requires_grad_(False).eval()
    return Classifier(model, tuple(f"{parent}.{k}" if parent else k for k in chosen), plain)


def _is_hidden(module: nn.Module) -> bool:
    if not isinstance(module, nn.Sequential):
        return False
    own = [m for m in module.modules() if any(True for _ in m.parameters(recurse=False))]
    return len(own) == 1 and isinstance(own[0], nn.Linear)
