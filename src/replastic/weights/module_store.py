"""The weights of a live `nn.Module` as a store: a list with roles and views, and writes in place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from replastic.errors import UserError, did_you_mean
from replastic.weights.change import LayerOutcome
from replastic.weights.declared import adapter_layers, declared_outputs
from replastic.weights.derived import derived_weights, parts_of, read_derived
from replastic.weights.entries import UndoStep, WeightEntry
from replastic.weights.module_views import Seen, Surroundings, view_of
from replastic.weights.naming import MATRIX_ROLES, plain_name, role_of, strip_prefixes
from replastic.weights.output_layers import TIED
from replastic.weights.roles import refined
from replastic.weights.shards import is_sharded, local, own_part, problem, reshard
from replastic.weights.staging import Stage, open_stage

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
"""Modules that normalise activations."""
_TABLES = (nn.Embedding, nn.EmbeddingBag)


class _Place(NamedTuple):
    """The module and attribute of a tensor. It is looked up at each use, since parameters may be replaced."""

    module: nn.Module
    attribute: str
    derived: bool = False

    def tensor(self) -> Tensor:
        if self.derived:
            return read_derived(self.module, self.attribute)
        tensor: Tensor = getattr(self.module, self.attribute)
        return tensor

    def facts(self) -> object:
        """The facts about the tensor that its entry depends on. They are found without computing anything."""
        if self.derived:
            return id(self.module)
        tensor = self.tensor()
        return id(tensor), tensor.dtype, tensor.requires_grad, None if is_lazy(tensor) else tensor.shape


class ModuleStore:
    """A live model as a `LiveStore` of parameters and persistent buffers. Tied tensors are one entry.

    Names are those of the state dict, without the prefixes of `torch.compile` and data parallelism. A weight that a
    parametrization computes is listed under the name that its layer uses. It can be read, but not written. The
    parameters behind it are listed, too, but not as matrices.

    Args:
        model: The module.
        outputs: Names of its output layers' weights with the reason, as a trace told them. Without it the model itself
            tells them, or its structure; see `weights.roles`.
    """

    def __init__(self, model: nn.Module, *, outputs: Mapping[str, str] | None = None) -> None:
        self.model = model
        self._outputs = outputs
        self._seen: object = None
        self._places: dict[str, _Place] = {}
        self._entries: tuple[WeightEntry, ...] = ()
        self._refusals: dict[str, str] = {}
        self._told = False
        self.entries()

    def entries(self) -> Sequence[WeightEntry]:
        """Every tensor of the model in its order. The list is up to date after freezing, casting or replacing.

        Parameters that FSDP2 has gathered for a pass are sharded again; see `shards.reshard`.
        """
        reshard(self.model)
        places = dict(_walk(self.model))
        seen = [(name, place.facts()) for name, place in places.items()]
        if seen != self._seen:
            self._seen = seen
            names = [strip_prefixes(name) for name in places]
            unique = len(set(names)) == len(names)
            self._places = dict(zip(names if unique else places, places.values(), strict=True))
            self._entries = self._make_entries()
            self._refusals = {name: e.refusal for e in self._entries for name in (e.name, *e.aliases)}
        return self._entries

    @property
    def tells_outputs(self) -> bool:
        """Whether a trace or the model itself told the output layers, or that there is none."""
        return self._told

    def read(self, name: str) -> Tensor:
        """One tensor, detached. It shares memory with the live one.

        Raises:
            UserError: There is no such tensor; the message offers near misses.
        """
        return self._place(name).tensor().detach()

    def tensor(self, name: str) -> Tensor:
        """The live parameter or buffer itself.

        Raises:
            UserError: There is no such tensor, or it must not be written; the message says what to do.
        """
        place = self._place(name)
        if self._refusals.get(name):
            raise UserError(f"{name} cannot be written: {self._refusals[name]}")
        return place.tensor()

    def current(self, written: Mapping[str, tuple[Tensor, Sequence[str]]]) -> dict[str, list[Tensor]]:
        """The tensors that stand where these were: the same object, or what has taken its place since.

        Args:
            written: A tensor and all its names, by the first of them.

        Returns:
            Several if tied tensors were separated; none if nothing of the name and shape is in the model any more.
        """
        self.entries()
        places = {name: place.tensor() for name, place in self._places.items() if not place.derived}
        fitting = {name: tensor for name, tensor in places.items() if not is_lazy(tensor)}
        there = {id(tensor) for tensor in fitting.values()}

        def now(tensor: Tensor, names: Sequence[str]) -> list[Tensor]:
            others = [fitting[n] for n in names if n in fitting and fitting[n].shape == tensor.shape]
            return list({id(t): t for t in (*([tensor] if id(tensor) in there else ()), *others)}.values())

        return {name: now(tensor, names) for name, (tensor, names) in written.items()}

    def transaction(self, *, staging: str = "memory") -> ModuleTransaction:
        """Begin a set of writes. New values wait in ``memory`` or on ``disk``."""
        return ModuleTransaction(self, open_stage(staging))

    def replace_modules(self, modules: Mapping[str, nn.Module]) -> UndoStep:
        """Replace the modules of these names. Returns the function that puts the old ones back.

        Raises:
            UserError: There is no module of that name.
        """
        raw = {strip_prefixes(f"{name}.")[:-1]: name for name, _ in self.model.named_modules() if name}
        for name in modules:
            if name not in raw:
                raise UserError(f"the model has no module {name!r} to replace{did_you_mean(name, raw)}")
        old = {raw[name]: self.model.get_submodule(raw[name]) for name in modules}
        self._put_modules({raw[name]: module for name, module in modules.items()})
        return lambda: self._put_modules(old)

    def _put_modules(self, modules: Mapping[str, nn.Module]) -> None:
        for name, module in modules.items():
            self.model.set_submodule(name, module)
        self.entries()

    def _place(self, name: str) -> _Place:
        try:
            return self._places[name]
        except KeyError:
            raise UserError(f"the model has no weight {name!r}{did_you_mean(name, self._places)}") from None

    def _make_entries(self) -> tuple[WeightEntry, ...]:
        modules = {strip_prefixes(f"{n}.")[:-1]: m for n, m in self.model.named_modules(remove_duplicate=False)}
        surroundings = Surroundings({plain_name(f"{name}.")[:-1]: module for name, module in modules.items()})
        adapters = adapter_layers(self.model)
        found: dict[object, WeightEntry] = {}
        tables: dict[object, set[bool]] = defaultdict(set)
        for name, place in self._places.items():
            entry = _entry(name, place, surroundings)
            if id(place.module) in adapters:
                entry = replace(entry, role="adapter")
            key = name if place.derived else _identity(place.tensor())
            tables[key].add(isinstance(place.module, _TABLES))
            found[key] = _tie(found[key], entry) if key in found else entry
        tied = {key for key, kinds in tables.items() if len(kinds) > 1}
        entries = [replace(e, output=TIED) if key in tied else e for key, e in found.items()]
        known = self._outputs or declared_outputs(self.model, self._name_of)
        self._told = known is not None
        return refined(entries, known=known)

    def _name_of(self, module: nn.Module) -> str | None:
        """Name of the weight of a module."""
        return next((n for n, p in self._places.items() if p.module is module and p.attribute == "weight"), None)


class ModuleTransaction:
    """Writes to live tensors. They are staged, then copied in place, so that parameters stay the same objects.

    After the commit the stage holds the old values. So one extra copy of the touched tensors is enough for both.
    """

    def __init__(self, store: ModuleStore, stage: Stage) -> None:
        self._store = store
        self._stage = stage
        self._staged: dict[str, tuple[int, Tensor]] = {}
        self._committed = False

    def __enter__(self) -> ModuleTransaction:
        return self

    def __exit__(self, *error: object) -> None:
        if not self._committed:
            self._stage.close()

    def prepare(self) -> None:
        """Nothing to do: the weights are where they are."""

    def stage(self, name: str, value: Tensor, layers: Sequence[LayerOutcome] = ()) -> None:
        """Cast the new value to the dtype and device of the live tensor, and keep it; of a sharded one the own part.

        Raises:
            UserError: The weight is unknown or must not be written.
        """
        live = self._store.tensor(name)
        cast = own_part(value, live).to(device=live.device, dtype=live.dtype)
        if cast.untyped_storage().data_ptr() in self._live_storages:
            cast = cast.clone()
        self._staged[name] = (self._stage.put(cast), live)

    @cached_property
    def _live_storages(self) -> frozenset[int]:
        tensors = (p.tensor() for p in self._store._places.values() if not p.derived)
        return frozenset(
            local(t).untyped_storage().data_ptr() for t in tensors if not is_lazy(t) and t.layout == torch.strided
        )

    def commit(self) -> UndoStep:
        """Write every staged value in place. An error on the way restores the old values."""
        written: dict[str, tuple[int, Tensor]] = {}
        names = {entry.name: (entry.name, *entry.aliases) for entry in self._store.entries()}

        @torch.no_grad()
        def undo() -> list[str]:
            now = self._store.current({name: (live, names.get(name, (name,))) for name, (_, live) in written.items()})
            for name, (key, _) in written.items():
                for tensor in now[name]:
                    local(tensor).copy_(self._stage.get(key))
            self._stage.close()
            return [f"{name}, which is no longer in the model" for name, tensors in now.items() if not tensors]

        self._committed = True
        try:
            with torch.no_grad():
                for name, (key, live) in self._staged.items():
                    new = self._stage.get(key)
                    self._stage.replace(key, local(live))
                    written[name] = key, live
                    local(live).copy_(new)
                    del new  # else it would stay in memory while the next one is read
        except BaseException:
            undo()
            raise
        return undo


def _walk(model: nn.Module) -> Iterator[tuple[str, _Place]]:
    """Every parameter, persistent buffer and derived weight, under every name that leads to it."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        path = f"{prefix}." if prefix else ""
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                yield path + attribute, _Place(module, attribute)
        for attribute, buffer in module._buffers.items():
            if buffer is not None and attribute not in module._non_persistent_buffers_set:
                yield path + attribute, _Place(module, attribute)
        for attribute, _ in derived_weights(module):
            yield path + attribute, _Place(module, attribute, derived=True)


def _entry(name: str, place: _Place, surroundings: Surroundings) -> WeightEntry:
    tensor, module = place.tensor(), place.module
    if is_lazy(tensor):
        return WeightEntry(name, (), tensor.dtype, "other", None, refusal=_LAZY)
    shape, role = tuple(tensor.shape), _role(name, place, tensor)
    seen = Seen(None)
    if role in MATRIX_ROLES and len(shape) > 1:
        seen = view_of(module, place.attribute, name=plain_name(name), surroundings=surroundings)
    trainable, refusal = tensor.requires_grad, _refusal(tensor, place, name)
    if place.derived:
        trainable = any(p.requires_grad for p in module.parameters())
        refusal = dict(derived_weights(module))[place.attribute]
    return WeightEntry(
        name,
        shape,
        tensor.dtype,
        role,
        seen.view,
        trainable=trainable,
        refusal=refusal,
        derived=place.derived,
        sharded=is_sharded(tensor),
        known_by=seen.known_by,
    )


def _role(name: str, place: _Place, tensor: Tensor) -> str:
    """The role by the module's type, or else by the name."""
    module, attribute = place.module, place.attribute
    if attribute in module._buffers:
        return "buffer"
    if ".parametrizations." in f".{name}" or attribute in parts_of(module):
        return "other"
    if isinstance(module, _TABLES):
        return "embedding"
    if isinstance(module, NORMS):
        return "norm"
    return role_of(name, tensor.shape)


_LAYERS = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd)
_FLAT = (
    "it is a flat parameter of FSDP, or a piece of one: wrap the model with use_orig_params=True and make the call "
    "inside FSDP.summon_full_params(model, writeback=True), or rewrite the full checkpoint"
)


def _is_flat(tensor: Tensor, place: _Place) -> bool:
    """Whether the weight of a layer has lost its axes, as under FSDP outside of `summon_full_params`."""
    return place.attribute == "weight" and tensor.ndim < 2


_LAZY = "its shape is not known yet; run one forward pass first"


def _refusal(tensor: Tensor, place: _Place, name: str) -> str:
    """The reason why a tensor cannot be rewritten in place, with the remedy; empty if it can."""
    if place.attribute.endswith("_flat_param") or (isinstance(place.module, _LAYERS) and _is_flat(tensor, place)):
        return _FLAT
    if place.attribute in place.module._buffers and not tensor.is_floating_point() and tensor.ndim == 2:
        packed = role_of(name, tensor.shape) == "matrix"
        return f"it is stored as {str(tensor.dtype).removeprefix('torch.')}; dequantise it first" if packed else ""
    if cut := problem(tensor):
        return cut
    if tensor.is_meta:
        return "it is on the meta device and has no values; load the weights first"
    if tensor.layout != torch.strided:
        return f"it is stored in the sparse layout {tensor.layout}; call .to_dense() first"
    if isinstance(tensor, nn.Parameter) and tensor.is_complex():
        return "it is complex, which is not supported; exclude it"
    if isinstance(tensor, nn.Parameter) and not (tensor.is_floating_point() and tensor.dtype.itemsize > 1):
        return f"it is stored as {str(tensor.dtype).removeprefix('torch.')}; dequantise it first"
    if type(local(tensor)) is not Tensor:
        return f"it is a {type(tensor).__name__}, which does not store plain numbers; dequantise it first"
    if any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
        return "its rows or columns share memory (expand); replace it by a .clone() first"
    if tensor.is_inference():
        return "it was made under torch.inference_mode, which forbids changes in place; load it outside that mode"
    return ""


def _identity(tensor: Tensor) -> object:
    """A key that is equal for tensors that share all their memory, also if they are different objects."""
    if is_lazy(tensor) or tensor.is_meta or tensor.layout != torch.strided or not tensor.numel():
        return id(tensor)
    if is_sharded(tensor):
        return id(tensor)
    return tensor.device, tensor.untyped_storage().data_ptr(), tensor.storage_offset(), tensor.numel()


def _tie(first: WeightEntry, other: WeightEntry) -> WeightEntry:
    """One entry under the first name. If one of the two is an embedding, the entry is an embedding."""
    role = "embedding" if "embedding" in (first.role, other.role) else first.role
    aliases = (*first.aliases, other.name) if other.name != first.name else first.aliases
    return replace(first, role=role, aliases=aliases)
