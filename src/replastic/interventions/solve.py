"""From a plan to proposals: read, see as matrices, solve in batches, merge, measure; a bounded part at a time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from replastic.errors import MatrixError, UserError
from replastic.interventions.initial import Initial
from replastic.interventions.method import Solution, WeightMethod
from replastic.interventions.parts import Part, as_written, measure, outcome, working_dtype
from replastic.interventions.plan import Job, Plan, fingerprint
from replastic.interventions.run import Run
from replastic.interventions.sharded import solved_sharded
from replastic.linalg.device import at_once, in_working_precision
from replastic.seeds import derive
from replastic.weights.change import Change, Proposal, Proposals
from replastic.weights.entries import MatrixInfo, StoreOnDisk

CHUNK = 1 << 20
"""Elements solved in one call on a CPU: enough to fill it, few enough that temporaries stay small."""

_Piece = list[tuple[Part, int, int]]
"""Matrices solved in one call: (part, first matrix, end) of parts of equal shape."""


def propose(planned: Plan, run: Run) -> Change:
    """The change that the methods of a plan propose for its weights.

    What each method compares them with (`WeightMethod.reference`) is asked for at once. Reading and solving happen
    when the proposals are read, once.

    Args:
        planned: Which weights, each with its method.
        run: Weights and initial values.

    Raises:
        UserError: Now, as `reference`; while the proposals are read, for a weight that has no answer (NaN, Inf, all
            zero), named with its layer.
    """
    sources = {id(m): _source(m, run) for m in planned.methods}
    if isinstance(run.store, StoreOnDisk):
        order = [job.entry.name for chunk in _chunks(planned.jobs) for job in chunk]
        run.store.expect(order, f"{fingerprint(planned.jobs, run)} {run.init!r}")
    costs = {job.entry.name: job.cost for job in planned.jobs}
    made = _proposals(planned.jobs, run, sources)
    return Change(proposals=Proposals(costs, made), skipped=planned.skipped, notes=planned.notes)


def _source(method: WeightMethod, run: Run) -> Initial:
    reference = method.reference(run)
    return Initial(run.init if reference is None else reference, method.compared_with)


def _proposals(jobs: Sequence[Job], run: Run, sources: Mapping[int, Initial]) -> Iterator[Proposal]:
    sharded = [job for job in jobs if job.entry.sharded]
    if sharded:  # first, so that no error of one process alone lets the others wait for it in an exchange
        yield from solved_sharded(sharded, run, sources, chunks=_chunks, answer=_answers, room=CHUNK)
    here = [job for job in jobs if not job.entry.sharded]
    on_disk = run.store if isinstance(run.store, StoreOnDisk) else None
    for chunk in _chunks(here, at_once(_device(run), CHUNK)):
        yield from _kept(chunk, on_disk) or _answers(chunk, run, sources[id(chunk[0].method)])


def _kept(chunk: Sequence[Job], store: StoreOnDisk | None) -> list[Proposal]:
    """The proposals that a killed call had made, if those for all weights of a chunk are there: it is solved as one."""
    found = [store.kept(job.entry.name) for job in chunk] if store is not None else []
    return [proposal for proposal in found if proposal is not None] if None not in found else []


def _answers(chunk: Sequence[Job], run: Run, initial: Initial) -> Iterator[Proposal]:
    return _tensor(chunk[0], run, initial) if chunk[0].whole else _matrices(chunk, run, initial)


def _device(run: Run) -> torch.device:
    """Where a live model is; the CPU for weights in a file."""
    parameters = () if run.model is None else run.model.parameters()
    return next((p.device for p in parameters), torch.device("cpu"))


def _chunks(jobs: Sequence[Job], room: int = CHUNK) -> Iterator[list[Job]]:
    """Weights to be solved together: same method, same shapes of matrices, together at most `room` elements.

    Within a group the order is by name, so that the chunks do not depend on the order of the store.
    """
    groups: dict[object, list[Job]] = defaultdict(list)
    for job in jobs:
        shapes = frozenset((i.d_out, i.d_in, i.taps) for i in job.infos)
        alone = job.whole or not job.method.batched
        groups[job.entry.name if alone else (id(job.method), shapes)].append(job)
    for group in groups.values():
        chunk: list[Job] = []
        elements = 0
        for job in sorted(group, key=lambda j: j.entry.name):
            size = sum(i.batch * i.d_out * i.d_in for i in job.infos)
            if chunk and elements + size > room:
                yield chunk
                chunk, elements = [], 0
            chunk.append(job)
            elements += size
        yield chunk


def _tensor(job: Job, run: Run, initial: Initial) -> Iterator[Proposal]:
    """The proposal for a tensor that the method sees in its own shape."""
    name, info = job.entry.name, job.infos[0]
    stored = run.store.read(name)
    w0 = _initial_of(job, initial)
    if not stored.is_floating_point():
        if w0 is not None:
            yield Proposal(name, w0)
        return
    _check_finite({name: stored})
    w = stored.to(working_dtype(stored))
    answer = _solve(job.method, w, info, None if w0 is None else w0.to(w), _generator(run, w, info))
    old, new = (x.reshape(1, info.d_out, info.d_in) for x in (stored, answer.weight))
    part = Part(info, old, new=new, facts=[answer.facts])
    measure([part])
    yield Proposal(name, answer.weight, (outcome(part, job.method.name, job.entry.known_by),))


def _matrices(chunk: Sequence[Job], run: Run, initial: Initial) -> Iterator[Proposal]:
    """The proposals for weights that are solved together as matrices."""
    stored = {job.entry.name: run.store.read(job.entry.name) for job in chunk}
    _check_finite(stored)
    parts: list[list[Part]] = []
    groups: dict[object, list[Part]] = defaultdict(list)
    for job in chunk:
        parts.append(_seen(job, stored[job.entry.name], _initial_of(job, initial)))
        for part in (parts[-1][i] for i in job.touched):
            shape = (part.info.d_out, part.info.d_in, part.info.taps)
            groups[shape, part.old.device, part.old.dtype, part.initial is None].append(part)
    for group in groups.values():
        _solve_group(chunk[0].method, group, run)
        measure(group)
    for job, mine in zip(chunk, parts, strict=True):
        assert job.entry.view is not None
        values = [p.old.to(working_dtype(p.old)) if p.new is None else p.new for p in mine]
        value = job.entry.view.merge(values, job.entry.shape)
        yield Proposal(
            job.entry.name, value, tuple(outcome(mine[i], job.method.name, job.entry.known_by) for i in job.touched)
        )


def _seen(job: Job, stored: Tensor, w0: Tensor | None) -> list[Part]:
    """A weight and its initial value as batches of matrices."""
    assert job.entry.view is not None
    old = job.entry.view.split(stored)
    first = [None] * len(old) if w0 is None else job.entry.view.split(w0.to(stored.device))
    return [Part(*triple) for triple in zip(job.infos, old, first, strict=True)]


def _solve_group(method: WeightMethod, group: Sequence[Part], run: Run) -> None:
    """Fill `new` and `facts` of parts of equal shape, dtype and device."""
    pieces: list[_Piece] = list(_pieces(group)) if method.batched else [[(p, 0, p.info.batch)] for p in group]
    dtype = working_dtype(group[0].old)
    for piece in pieces:
        info = piece[0][0].info
        w = _stack([part.old[a:b] for part, a, b in piece], dtype)
        first = [part.initial[a:b] for part, a, b in piece if part.initial is not None]
        try:
            answer = _solve(method, w, info, _stack(first, dtype) if first else None, _generator(run, w, info))
        except MatrixError as error:
            raise _named(error, piece) from error
        told = {**answer.facts, **as_written(answer, group[0].old.dtype)}
        facts = {k: v.detach().cpu() if isinstance(v, Tensor) else v for k, v in told.items()}
        offset = 0
        for part, a, b in piece:
            share = slice(offset, offset + b - a)
            offset += b - a
            part.facts.append({k: v[share] if isinstance(v, Tensor) else v for k, v in facts.items()})
            if b - a == part.info.batch:
                part.new = answer.weight[share]
            else:
                part.new = torch.empty_like(part.old, dtype=dtype) if part.new is None else part.new
                part.new[a:b] = answer.weight[share]


def _pieces(group: Sequence[Part]) -> Iterator[_Piece]:
    """The matrices of all parts, gathered into calls of at most about `CHUNK` elements, more on a GPU."""
    limit = max(1, at_once(group[0].old.device, CHUNK) // (group[0].info.d_out * group[0].info.d_in))
    piece: _Piece = []
    room = limit
    for part in group:
        start = 0
        while start < part.info.batch:
            stop = min(part.info.batch, start + room)
            piece.append((part, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield piece
                piece, room = [], limit
    if piece:
        yield piece


def _solve(method: WeightMethod, w: Tensor, info: MatrixInfo, w0: Tensor | None, draw: torch.Generator) -> Solution:
    with torch.no_grad(), in_working_precision(w.device):
        answer = method.solve(w, info, w0, draw)
    solution = answer if isinstance(answer, Solution) else Solution(answer)
    if solution.weight.shape != w.shape:
        raise UserError(f"{method.name}: solve must return shape {tuple(w.shape)}, got {tuple(solution.weight.shape)}")
    return solution


def _named(error: MatrixError, piece: _Piece) -> UserError:
    """The same problem with the layer's name instead of a place in the batch."""
    offset = 0
    for part, a, b in piece:
        if error.index < offset + b - a:
            which = f" (matrix {a + error.index - offset} of {part.info.batch})" if part.info.batch > 1 else ""
            return UserError(f"{part.info.label}{which} {error.problem}")
        offset += b - a
    return error


def _check_finite(stored: Mapping[str, Tensor]) -> None:
    """Raise for the first weight that holds NaN or Inf; one transfer from the device for all."""
    bounds = [torch.stack(torch.aminmax(w)).double() for w in stored.values() if w.numel()]
    device = bounds[0].device if bounds else None
    if bounds and bool(torch.isfinite(torch.stack([b.to(device) for b in bounds])).all()):
        return
    for name, w in stored.items():
        bad = int((~torch.isfinite(w)).sum())
        if bad:
            raise UserError(f"{name} holds {bad} of {w.numel()} values that are NaN or Inf; nothing was written")


def _initial_of(job: Job, initial: Initial) -> Tensor | None:
    needed = job.method.required() & {"init", "fresh", "checkpoints"}
    return initial.need(job.entry, job.method.name) if needed else initial.of(job.entry)


def _generator(run: Run, w: Tensor, info: MatrixInfo) -> torch.Generator:
    return torch.Generator(device=w.device).manual_seed(derive(run.seed, run.phase, info.weight, info.block))


def _stack(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """The parts as one batch, without a copy where there is one part of that dtype."""
    return parts[0].to(dtype) if len(parts) == 1 else torch.cat([p.to(dtype) for p in parts])
