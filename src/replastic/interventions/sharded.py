"""Weights that are sharded over processes: they go whole to owners that solve them, and their parts come back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor

from replastic.errors import UserError
from replastic.interventions.initial import Initial
from replastic.interventions.plan import Job, fingerprint
from replastic.interventions.run import Run
from replastic.interventions.sharded_rows import solved_by_rows
from replastic.parallel.agreement import meet
from replastic.parallel.owners import exchange, share, tell
from replastic.weights.change import LayerOutcome, Proposal
from replastic.weights.entries import WeightStore
from replastic.weights.shards import Sharding, alike, is_sharded, local, sharding, whole_of
from replastic.weights.tables import check_finite

Chunk = Sequence[Job]
Answer = Callable[[Chunk, Run, Initial], Iterator[Proposal]]
"""Solves the weights of one chunk, given whole."""


def solved_sharded(
    jobs: Sequence[Job],
    run: Run,
    sources: Mapping[int, Initial],
    *,
    chunks: Callable[[Sequence[Job]], Iterable[Chunk]],
    answer: Answer,
    room: int,
) -> Iterator[Proposal]:
    """The proposals for sharded weights: values sharded as the weights are, outcomes the same in all processes.

    Tall matrices are solved where their rows are, if the method can (`solved_by_rows`). The rest goes to owners: every
    chunk to one process of its group, by work, about d_out d_in min(d_out, d_in) for a matrix. In a round each owner
    takes weights of about `room` elements, one weight at least, from all processes; it solves them and gives the parts
    of the answers back. So no process holds more than that beside its own parts, and a round costs two exchanges and
    what is told of the outcomes. An error of one owner ends the call in all processes.

    Args:
        jobs: Sharded weights.
        run: The weights; all processes of a group have to call with the same.
        sources: The initial values for each method, by its identity: whole, or sharded as the weights are.
        chunks: Makes sets of weights that are solved together.
        answer: Solves the weights of such a set.
        room: Elements that an owner takes in a round.

    Raises:
        UserError: A process has not called or has another plan, or a weight has no answer; all processes raise it.
    """
    groups: dict[tuple[int, ...], list[Job]] = defaultdict(list)
    for job in jobs:
        groups[_cut(run, job).ranks].append(job)
    for ranks, together in groups.items():
        meet(ranks, fingerprint(together, run))
        cut, left = _cut(run, together[0]), []
        for job in together:
            proposal = solved_by_rows(job, run)
            if proposal is None:
                left.append(job)
            else:
                yield proposal
        mine = list(chunks(left))
        shares = share([sum(job.cost for job in chunk) for chunk in mine], cut.size)
        rounds = [list(_rounds([mine[k] for k in numbers], room)) for numbers in shares]
        for turn in range(max(map(len, rounds))):
            loads = [own[turn] if turn < len(own) else [] for own in rounds]
            yield from _Round(loads, run, sources, cut).proposals(answer)


@dataclass(frozen=True)
class _Round:
    """The weights that the owners of a group solve at the same time."""

    loads: Sequence[Sequence[Chunk]]
    """By owner, in the order of the group."""
    run: Run
    sources: Mapping[int, Initial]
    cut: Sharding
    """The group; each weight may be cut along an axis of its own."""

    def proposals(self, answer: Answer) -> Iterator[Proposal]:
        """Bring the weights to their owners, solve them, bring the parts back."""
        place, jobs = self.cut.place, [[job for chunk in load for job in chunk] for load in self.loads]
        own = [source for job in jobs[place] for source in self._needed(job)]
        pieces = [[local(source) for job in theirs for source in self._needed(job)] for theirs in jobs]
        gathered = _joined(own, pieces, self.cut)
        answers, problem = self._solved(gathered, answer)
        told = tell((problem, [(a.name, a.layers, a.shift) for a in answers]), self.cut.group)
        wrong = next((text for text, _ in told if text), "")
        if wrong:
            raise UserError(wrong)
        yield from self._brought_back(answers, [said for _, said in told])

    def _needed(self, job: Job) -> list[Tensor]:
        """The sharded tensors that the owner of a weight needs whole: the weight, and its initial value if sharded."""
        stored = self.run.store.read(job.entry.name)
        first = self.sources[id(job.method)].unchecked(job.entry)
        if first is None or not is_sharded(first):
            return [stored]
        if not alike(first, stored):
            raise UserError(
                f"the initial value of {job.entry.name} is not sharded over the processes as the weight is: shard it "
                "in the same way, or pass it whole"
            )
        return [stored, first]

    def _solved(self, gathered: Iterator[Tensor], answer: Answer) -> tuple[list[Proposal], str]:
        """The answers for the own weights, in their stored dtype; or none, and why."""
        answers: list[Proposal] = []
        try:
            for chunk in self.loads[self.cut.place]:
                stored: dict[str, Tensor] = {}
                first: dict[str, Tensor] = {}
                for job in chunk:
                    name, source = job.entry.name, self.sources[id(job.method)]
                    needed, whole = self._needed(job), source.unchecked(job.entry)
                    stored[name] = next(gathered)
                    if whole is not None:
                        first[name] = next(gathered) if len(needed) > 1 else whole
                run = replace(self.run, store=cast(WeightStore, _Whole(stored)))
                dtypes = {job.entry.name: job.entry.dtype for job in chunk}
                for proposal in answer(chunk, run, Initial(first)):
                    value = proposal.value.detach().to(dtypes[proposal.name])
                    check_finite(proposal.name, value)
                    answers.append(replace(proposal, value=value))
        except UserError as error:
            return [], str(error)
        except Exception as error:  # the other processes wait for word
            return [], f"process {self.cut.ranks[self.cut.place]} could not go on ({type(error).__name__}: {error})"
        return answers, ""

    def _brought_back(
        self, answers: Sequence[Proposal], told: Sequence[Sequence[tuple[str, tuple[LayerOutcome, ...], bool]]]
    ) -> Iterator[Proposal]:
        likes = [[self.run.store.read(name) for name, _, _ in said] for said in told]
        cuts = {a.name: like for a, like in zip(answers, likes[self.cut.place], strict=True)}
        given = [[_part(a.value, cuts[a.name], k) for a in answers] for k in range(self.cut.size)]
        shapes = [[tuple(local(like).shape) for like in mine] for mine in likes]
        counts = [sum(local(like).numel() * like.element_size() for like in mine) for mine in likes]
        taken = exchange(given, counts, _device(self.cut, given), self.cut.group)
        for said, mine, parts, data in zip(told, likes, shapes, taken, strict=True):
            start = 0
            for (name, layers, shift), like, shape in zip(said, mine, parts, strict=True):
                size = local(like).numel() * like.element_size()
                part = data[start : start + size].clone().view(like.dtype).reshape(shape).to(like.device)
                start += size
                yield Proposal(name, whole_of(part, like), layers, shift)


class _Whole:
    """The gathered weights of an owner, to be read like a store."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        self._values = values

    def read(self, name: str) -> Tensor:
        return self._values[name]


def _joined(own: Sequence[Tensor], pieces: Sequence[Sequence[Tensor]], cut: Sharding) -> Iterator[Tensor]:
    """Exchange the parts, at once; the tensors that came to this process are put together as they are asked for."""
    shapes = [[_shape(like, k) for like in own] for k in range(cut.size)]
    sizes = [[like.element_size() * torch.Size(s).numel() for like, s in zip(own, row, strict=True)] for row in shapes]
    taken = exchange(pieces, [sum(row) for row in sizes], _device(cut, pieces), cut.group)
    parts = [torch.split(data, row) for data, row in zip(taken, sizes, strict=True)]

    def whole(i: int, like: Tensor) -> Tensor:
        found = sharding(like)
        assert found is not None
        mine = [parts[k][i].clone().view(like.dtype).reshape(shapes[k][i]) for k in range(cut.size)]
        return torch.cat(mine, dim=found.axis).to(like.device)

    return (whole(i, like) for i, like in enumerate(own))


def _shape(like: Tensor, place: int) -> tuple[int, ...]:
    found = sharding(like)
    assert found is not None
    return found.shape(tuple(like.shape), place)


def _part(value: Tensor, like: Tensor, place: int) -> Tensor:
    """The part of a whole value that the process at a position of the group keeps."""
    found = sharding(like)
    assert found is not None
    rows = found.rows(like.shape[found.axis], place)
    return value.narrow(found.axis, rows.start, rows.stop - rows.start)


def _device(cut: Sharding, pieces: Sequence[Sequence[Tensor]]) -> torch.device:
    """The device on which a group communicates."""
    if torch.distributed.get_backend(cut.group) == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return next((t.device for given in pieces for t in given if t.device.type != "cuda"), torch.device("cpu"))


def _cut(run: Run, job: Job) -> Sharding:
    found = sharding(run.store.read(job.entry.name))
    assert found is not None  # others are refused as the store lists them
    return found


def _rounds(chunks: Sequence[Chunk], room: int) -> Iterator[list[Chunk]]:
    """Chunks of an owner that are taken together."""
    load: list[Chunk] = []
    elements = 0
    for chunk in chunks:
        size = sum(i.batch * i.d_out * i.d_in for job in chunk for i in job.infos)
        if load and elements + size > room:
            yield load
            load, elements = [], 0
        load.append(chunk)
        elements += size
    if load:
        yield load
