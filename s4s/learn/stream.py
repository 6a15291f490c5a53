"""A stream of batches: each is linearised, joins what is remembered, and moves the parameters if that proves better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s4s.learn.family import Family
from s4s.learn.objective import Batch, Objective, Samples
from s4s.learn.quadratic import Memory, Quadratic, step
from s4s.learn.robust import robust
from s4s.learn.schedule import SMALL
from s4s.learn.seeded import generator
from s4s.solver import Solver

DAMPING, LEAST, MOST = 1e-2, 1e-6, 1e4
EASED, RAISED, TRIALS = 3.0, 5.0, 4  # by which damping falls after a step, and rises after a trial; trials of a batch
SLACK = 1.002  # of a small batch's loss: noise must not stop a stream


@dataclass
class Stream:
    """Where one descent stands.

    Args:
        family, turns: what moves, and the blocks that move one after the other.
        seed: of the batches and of the projections.
        theta, memory, damping: the parameters, what the batches so far say of the loss, and how far a step is trusted.
        taken: samples drawn so far. ``steps``: batches so far.
        last: samples of the last batch, and the loss on them before its step.
        before: index and distances at ``theta`` of the batch before.
        shift: [n, ...] moves of the training noises; None where they stay.
    """

    family: Family
    turns: list[Tensor]
    seed: int
    theta: Tensor
    memory: Memory
    damping: float = DAMPING
    taken: int = 0
    steps: int = 0
    before: tuple[Tensor, Tensor] | None = None
    shift: Tensor | None = None
    last: tuple[int, float] = (0, 0.0)

    @classmethod
    def of(cls, family: Family, turns: list[Tensor], seed: int) -> Stream:
        """At the solver of a family."""
        return cls(family, turns, seed, family.theta, Memory.of(len(family.theta)))

    @property
    def solver(self) -> Solver:
        return solver_at(self.family, self.theta)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and numbers that the steps to come hang on."""
        tensors = {"theta": self.theta, "A": self.memory.A, "c": self.memory.c}
        if self.before is not None:
            tensors |= {"index": self.before[0], "distances": self.before[1]}
        if self.shift is not None:
            tensors["shift"] = self.shift
        numbers = {key: getattr(self, key) for key in ("damping", "taken", "steps", "last")}
        return tensors, numbers | {"weight": self.memory.weight}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Inverse of ``state``."""
        self.theta, self.memory = tensors["theta"], Memory(tensors["A"], tensors["c"], numbers["weight"])
        self.before = (tensors["index"], tensors["distances"]) if "index" in tensors else None
        self.shift = tensors.get("shift")
        self.damping, self.taken, self.steps = numbers["damping"], numbers["taken"], numbers["steps"]
        self.last = tuple(numbers["last"])


def solver_at(family: Family, theta: Tensor) -> Solver:
    """The solver of some parameters, which still knows which textbook solver it started as."""
    return family.solver(theta).replace(name=family.start.name, provenance=family.start.provenance)


@dataclass(frozen=True)
class Terms:
    """What is minimised beside the mean distance: the weight of the moments' gap, and how far noises may move."""

    moments: float = 0.0
    reach: float = 0.0


def advance(streams: Sequence[Stream], objective: Objective, rows: int, keep: float, terms: Terms) -> None:
    """Take one batch of each stream: linearise the loss on it, remember that, and step if that lowers the loss.

    The network sees the batches of all streams together: a few rows a call take longer than many.
    """
    drawn = [_drawn(stream, objective, rows, terms) for stream in streams]
    batches = [Batch(stream.family.arrays, stream.theta, samples, stream.seed * 1_000_003 + stream.steps)
               for stream, (_, samples) in zip(streams, drawn, strict=True)]  # fmt: skip
    attempts = []
    for stream, batch, here in zip(streams, drawn, objective.linearise(batches, terms.moments), strict=True):
        if here.finite:
            stream.memory = stream.memory.add(here, stream.theta, keep)
            attempts.append(_Attempt.of(stream, objective, batch, here, terms.moments))
        count = len(batch[0])
        stream.taken, stream.steps, stream.last = stream.taken + count, stream.steps + 1, (count, here.loss)
    _move(attempts, objective, terms.moments)


def _drawn(stream: Stream, objective: Objective, rows: int, terms: Terms) -> tuple[Tensor, Samples]:
    """Index and samples of a stream's next batch."""
    index = draw(stream.seed, stream.taken, min(rows, len(objective.train)), len(objective.train))
    samples = objective.train.at(index)
    if terms.reach:  # a sample may be drawn but once, so its noise moves before it counts
        still = torch.zeros_like(objective.train.x_T)
        stream.shift = still if stream.shift is None else stream.shift.to(still)
        stream.shift[index] = objective.relax(stream.solver, samples, stream.shift[index], terms.reach)
        samples = samples.moved(stream.shift[index])
    return index, samples


@dataclass
class _Attempt:
    """A stream's next step: the samples it is judged on, and the loss that it must get below.

    Args:
        index: [B] of the batch, whose samples are the first; a small one is judged together with the one before.
    """

    stream: Stream
    index: Tensor
    samples: Samples
    tolerance: float
    loss: float

    @classmethod
    def of(
        cls, stream: Stream, objective: Objective, batch: tuple[Tensor, Samples], here: Quadratic, moments: float
    ) -> _Attempt:
        (index, samples), distances, slack = batch, here.distances, 1.0
        if len(index) <= SMALL and not moments and stream.shift is None:
            slack = SLACK
            if stream.before is not None:
                samples = objective.train.at(torch.cat([index, stream.before[0]]))
                distances = torch.cat([distances, stream.before[1]])
        loss = here.loss if moments else robust(distances, here.tolerance).mean().item()
        stream.before = (index, here.distances)
        return cls(stream, index, samples, here.tolerance, loss * slack)

    def takes(self, theta: Tensor, distances: Tensor, more: float) -> bool:
        """Whether the loss at some parameters is lower; then the stream goes there, else damping rises."""
        stream, loss = self.stream, robust(distances, self.tolerance).mean().item() + more
        if not loss < self.loss:  # which NaN is not
            stream.damping = min(stream.damping * RAISED, MOST)
            return False
        stream.theta, stream.damping = theta, max(stream.damping / EASED, LEAST)
        stream.before = (self.index, distances[: len(self.index)])
        return True


def _move(attempts: Sequence[_Attempt], objective: Objective, moments: float) -> None:
    """Step to each model's damped minimum; damping rises until the loss falls, or the batch's trials are spent."""
    for _ in range(TRIALS):
        if not attempts:
            break
        thetas = [step(a.stream.memory, a.stream.theta, a.stream.turns, a.stream.damping) for a in attempts]
        found = _tried(attempts, thetas, objective, moments)
        attempts = [a for a, theta, one in zip(attempts, thetas, found, strict=True) if not a.takes(theta, *one)]


def _tried(
    attempts: Sequence[_Attempt], thetas: Sequence[Tensor], objective: Objective, moments: float
) -> list[tuple[Tensor, float]]:
    """Distances [B] at each one's parameters, infinite where those make no solver, and what moments add."""
    found = [(torch.full((len(a.samples),), math.inf, dtype=torch.float64), 0.0) for a in attempts]
    able = [k for k, (a, theta) in enumerate(zip(attempts, thetas, strict=True))
            if all(array.isfinite().all() for array in a.stream.family.arrays(theta))]  # fmt: skip
    solvers, samples = [attempts[k].stream.family.solver(thetas[k]) for k in able], [attempts[k].samples for k in able]
    if moments:
        made = [objective.distances_and_gap(*pair, moments) for pair in zip(solvers, samples, strict=True)]
    else:
        made = [(distances, 0.0) for distances in objective.distances_of_each(solvers, samples)]
    for k, one in zip(able, made, strict=True):
        found[k] = one
    return found


def draw(seed: int, first: int, count: int, n: int) -> Tensor:
    """Indices ``first`` to ``first + count - 1`` of an endless row of seeded permutations of ``n`` samples."""
    found = []
    for turn in range(first // n, (first + count - 1) // n + 1):
        found.append(torch.randperm(n, generator=generator(seed * 1_000_003 + turn)))
    return torch.cat(found)[first % n :][:count]
