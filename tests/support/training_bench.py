"""A small network in training under one method, led over two boundaries, as a loop of one's own does it."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from replastic import methods, recipes
from replastic.interventions.attached import Attached
from replastic.methods import Checkpoint, Method, Run
from replastic.options import pieces
from replastic.weights.module_store import ModuleStore
from replastic.weights.outcome import Outcome
from replastic.weights.redraw import redraw

Batch = tuple[Tensor, Tensor]
Make = Callable[[], Method]

PHASES, UPDATES = 3, 3
EVENTS: tuple[tuple[str, int, int], ...] = tuple(
    event
    for phase in range(PHASES)
    for event in (*([("cross", phase, 0)] if phase else ()), *(("update", phase, i) for i in range(UPDATES)))
)
"""What happens in a run, in order: crossings of the boundary before a phase, and updates in it."""

IN_LOOPS = [name for name in methods.names() if "replay" not in methods.from_spec(name).required()]
"""Methods that leave it to whoever trains which batches there are."""

LIVELY: Mapping[str, int | float] = {
    "every": 2,
    "batches": 1,
    "maturity_threshold": 1,
    "max_gap": 2,
    "replacement_rate": 0.3,
    "dormancy_threshold": 0.9,
    "exponent": 1,
    "er_batch": 2,
}
"""Values of options, whichever method has them, with which it acts within a few updates."""


class SmallConvnet(nn.Module):
    """Convolutions tall, wide and square, norms, biases and a head; every kind of tensor a method may meet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, bias=False)
        self.conv3 = nn.Conv2d(8, 6, 1)
        self.fc1 = nn.Linear(24, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.conv3(torch.relu(self.conv2(x))))
        return self.head(torch.relu(self.fc1(x.flatten(1))))


def loss_fn(model: nn.Module, batch: Batch) -> Tensor:
    return nn.functional.cross_entropy(model(batch[0]).float(), batch[1])


def build(
    dtype: torch.dtype = torch.float32, layout: torch.memory_format = torch.contiguous_format
) -> tuple[SmallConvnet, dict[str, Tensor]]:
    """A network a few steps away from its initial state, with three units that are always silent, and that state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SmallConvnet().to(dtype=dtype, memory_format=layout)
        init = {name: value.clone() for name, value in model.state_dict().items()}
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.3).add_(0.05 * torch.randn_like(parameter))
            model.bn1.running_mean.add_(0.5)
            model.bn1.num_batches_tracked.add_(7)
            model.fc1.bias[[1, 5, 6]] = -50.0
    return model, init


def data(phase: int, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu") -> list[Batch]:
    """The batches of a phase, the same at every call."""
    g = torch.Generator().manual_seed(1 + phase)
    drawn = [(torch.randn(8, 3, 6, 6, generator=g), torch.randint(0, 4, (8,), generator=g)) for _ in range(UPDATES)]
    return [(inputs.to(device, dtype), targets.to(device)) for inputs, targets in drawn]


def checkpoints(dtype: torch.dtype = torch.float32) -> list[Checkpoint]:
    """Six of them, the third the best."""
    init = build(dtype)[1]

    def load(number: int) -> dict[str, Tensor]:
        g = torch.Generator().manual_seed(number)
        noise = {n: 0.1 * torch.rand(v.shape, generator=g) for n, v in init.items()}
        return {n: v + (noise[n].to(v) if v.is_floating_point() else number) for n, v in init.items()}

    return [Checkpoint(10 * number, partial(load, number), best=number == 3) for number in range(1, 7)]


def lively(spec: str) -> str:
    """The spec with options that make every part act within a few updates."""
    found = []
    for name in pieces(spec):
        options = [f"{f.name}={LIVELY[f.name]}" for f in fields(methods.get(name)) if f.name in LIVELY]
        found.append(":".join([name, ",".join(options)]) if options else name)
    return "+".join(found)


def run_of(model: nn.Module, init: Mapping[str, Tensor], **given: Any) -> Run:
    """A run in which nothing is missing, before its first phase."""
    dtype, device = next(model.parameters()).dtype, next(model.parameters()).device
    trainable = [p for p in model.parameters() if p.requires_grad]
    return Run(
        **{
            "store": ModuleStore(model),
            "recipe": recipes.load("default"),
            "model": model,
            "optimizer": torch.optim.Adam(trainable, lr=1e-2),
            "init": init,
            "fresh": lambda seed: redraw(build(dtype)[0].to(device), seed),
            "batches": lambda: data(0, dtype, device),
            "loss_fn": loss_fn,
            "checkpoints": checkpoints(dtype),
            "replay": lambda share: None,
            "pass_steps": UPDATES,
            **given,
        }
    )


class Bench:
    """A network in training under a method, or under none."""

    def __init__(
        self,
        make: Make | None,
        *,
        dtype: torch.dtype = torch.float32,
        layout: torch.memory_format = torch.contiguous_format,
        frozen: Iterable[str] = (),
        averaged: bool = False,
        phase: int = 0,
        policy: Any = "reset_touched",
        device: str | torch.device = "cpu",
        **given: Any,
    ) -> None:
        self.model, init = build(dtype, layout)
        self.model.to(device)
        init = {name: value.to(device) for name, value in init.items()}
        for name in frozen:
            self.model.get_parameter(name).requires_grad_(False)
        self.dtype, self.device = dtype, device
        self.average = AveragedModel(self.model) if averaged else None
        self.share = 0.0
        run = run_of(self.model, init, batches=lambda: self.data(phase), **{"replay": self.replay, **given})
        assert run.optimizer is not None
        followers = None if self.average is None else {"average": self.average}
        method = Nothing() if make is None else make()
        self.attached = Attached(method, run, {"": run.optimizer}, policy=policy, followers=followers)

    def __enter__(self) -> Bench:
        self.attached.begin(0)
        return self

    def __exit__(self, *_: object) -> None:
        self.attached.close()

    @property
    def run(self) -> Run:
        return self.attached.run

    def data(self, phase: int) -> list[Batch]:
        """The batches of a phase, where the network is."""
        return data(phase, self.dtype, self.device)

    def replay(self, share: float) -> None:
        """Mix a share of the first phase's data into the batches of the others."""
        self.share = share

    def learn(self, batch: Batch) -> None:
        """One step of the optimizer, penalty included."""
        if self.share and self.run.phase > 0:
            old, count = self.data(0)[0], math.ceil(self.share * len(batch[0]))
            batch = torch.cat([old[0][:count], batch[0][count:]]), torch.cat([old[1][:count], batch[1][count:]])
        self.model.train()
        optimizer = self.attached.optimizer

        def closure() -> Tensor:
            optimizer.zero_grad()
            value, penalty = loss_fn(self.model, batch), self.attached.penalty()
            if penalty is not None:
                assert penalty.shape == ()
                assert penalty.requires_grad
                value = value + penalty
            assert torch.isfinite(value)
            value.backward()
            return value

        self.attached.backward(closure)
        optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.model)

    def act(self, event: tuple[str, int, int], **options: Any) -> list[Outcome]:
        """Let the method act after an update that was made, or cross a boundary."""
        kind, phase, _ = event
        if kind == "cross":
            return self.attached.cross(phase, batches=self.data(phase), **options)
        return self.attached.after_update()

    def go(self, first: int = 0, last: int = len(EVENTS)) -> Bench:
        """Do what happens from event `first` up to but not including `last`."""
        for event in EVENTS[first:last]:
            if event[0] == "update":
                self.learn(self.data(event[1])[event[2]])
            self.act(event)
        return self

    def content(self) -> dict[str, Tensor]:
        """Every bit that belongs to the run, but what the method remembers: copies, by name."""
        found = {f"model/{name}": value for name, value in self.model.state_dict().items()}
        for number, optimizer in enumerate(self.attached.optimizers.values()):
            found |= {f"optimizer/{number}/{k}": v for k, v in tensors_in(optimizer.state_dict()).items()}
        if self.average is not None:
            found |= {f"average/{name}": value for name, value in self.average.state_dict().items()}
        return {name: value.detach().clone() for name, value in found.items()}

    def memory(self) -> dict[str, Tensor]:
        """What the method remembers: copies, by name."""
        return {name: value.clone() for name, value in self.attached.state_dict().items()}

    def saved(self) -> bytes:
        """Method, model and optimizer, as a file holds them."""
        file = io.BytesIO()
        state = {
            "method": self.attached.state_dict(),
            "model": self.model.state_dict(),
            "optimizer": self.attached.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
        }
        torch.save(state, file)
        return file.getvalue()

    def load(self, saved: bytes) -> None:
        """Go on from there."""
        state = torch.load(io.BytesIO(saved), weights_only=True)
        self.attached.load_state_dict(state["method"])
        self.model.load_state_dict(state["model"])
        self.attached.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


class Nothing(Method):
    """No method at all."""


def tensors_in(state: Any, name: str = "") -> dict[str, Tensor]:
    """Tensors and numbers in nested tables and lists, by their path."""
    if isinstance(state, Mapping):
        return {k: v for key, inner in state.items() for k, v in tensors_in(inner, f"{name}/{key}").items()}
    if isinstance(state, list | tuple):
        return tensors_in(dict(enumerate(state)), name)
    if isinstance(state, Tensor):
        return {name: state}
    return {name: torch.tensor(state)} if isinstance(state, int | float) else {}


def differing(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> list[str]:
    """Names of what is not the same to the bit, or is in one of the two alone."""
    return sorted(n for n in a.keys() | b.keys() if n not in a or n not in b or not same(a[n], b[n]))


def same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def hooks_in(bench: Bench) -> dict[str, int]:
    """How many hooks there are, by the place they are in."""
    owners: dict[str, Any] = {"all modules": nn.modules.module}
    owners |= {f"module {name}": module for name, module in bench.model.named_modules()}
    owners |= {f"parameter {name}": parameter for name, parameter in bench.model.named_parameters()}
    optimizers = {id(o): o for o in (bench.run.optimizer, *bench.attached.optimizers.values())}
    owners |= {f"optimizer {number}": optimizer for number, optimizer in enumerate(optimizers.values())}
    found = {}
    for owner, value in owners.items():
        names = {name for name in vars(value) if "hooks" in name}
        names |= {"_backward_hooks", "_post_accumulate_grad_hooks"} if isinstance(value, Tensor) else set()
        for name in names:
            table = getattr(value, name)
            if isinstance(table, dict) and table:
                found[f"{owner}: {name}"] = len(table)
    return found


def generators() -> list[Any]:
    """The states of every global generator."""
    kind, keys, *rest = np.random.get_state()
    return [torch.get_rng_state().tolist(), random.getstate(), (kind, keys.tolist(), *rest)]
