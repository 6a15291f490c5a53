"""A stream of batches: each is linearised, joins what is remembered, and moves the parameters if that proves better."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s4s.learn.family import Family
from s4s.learn.objective import Objective, Samples
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


def advance(stream: Stream, objective: Objective, rows: int, keep: float, terms: Terms) -> None:
    """Take one batch: linearise the loss on it, remember that, and step if that lowers the loss."""
    index = draw(stream.seed, stream.taken, min(rows, len(objective.train)), len(objective.train))
    samples = objective.train.at(index)
    if terms.reach:  # a sample may be drawn but once, so its noise moves before it counts
        still = torch.zeros_like(objective.train.x_T)
        stream.shift = still if stream.shift is None else stream.shift.to(still)
        stream.shift[index] = objective.relax(stream.solver, samples, stream.shift[index], terms.reach)
        samples = samples.moved(stream.shift[index])
    seed = stream.seed * 1_000_003 + stream.steps
    here = objective.linearise(stream.family.arrays, stream.theta, samples, seed, terms.moments)
    if here.finite:
        stream.memory = stream.memory.add(here, stream.theta, keep)
        _move(stream, objective, (index, samples), here, terms.moments)
    stream.taken, stream.steps, stream.last = stream.taken + len(index), stream.steps + 1, (len(index), here.loss)


def _move(stream: Stream, objective: Objective, batch: tuple[Tensor, Samples], here: Quadratic, moments: float) -> None:
    """Step to the model's damped minimum; damping rises until the loss falls, or the batch's trials are spent."""
    (index, samples), distances, count = batch, here.distances, len(batch[0])
    small = count <= SMALL and not moments and stream.shift is None
    if small and stream.before is not None:
        samples = objective.train.at(torch.cat([index, stream.before[0]]))
        distances = torch.cat([distances, stream.before[1]])
    loss = here.loss if moments else robust(distances, here.tolerance).mean().item()
    stream.before = (index, here.distances)
    for _ in range(TRIALS):
        theta = step(stream.memory, stream.theta, stream.turns, stream.damping)
        found = _tried(stream.family, theta, objective, samples, moments)
        if found.loss(here.tolerance) < loss * (SLACK if small else 1.0):
            stream.theta, stream.damping = theta, max(stream.damping / EASED, LEAST)
            stream.before = (index, found.distances[:count])
            return
        stream.damping = min(stream.damping * RAISED, MOST)


@dataclass(frozen=True)
class _Trial:
    """Distances [B] at some parameters, and what moments add to their robust mean."""

    distances: Tensor
    more: float = 0.0

    def loss(self, tolerance: float) -> float:
        value = robust(self.distances, tolerance).mean().item() + self.more
        return value if value == value else math.inf


def _tried(family: Family, theta: Tensor, objective: Objective, samples: Samples, moments: float) -> _Trial:
    if not all(array.isfinite().all() for array in family.arrays(theta)):
        return _Trial(torch.full((len(samples),), math.inf, dtype=torch.float64))
    return _Trial(*objective.distances_and_gap(family.solver(theta), samples, moments))


def draw(seed: int, first: int, count: int, n: int) -> Tensor:
    """Indices ``first`` to ``first + count - 1`` of an endless row of seeded permutations of ``n`` samples."""
    found = []
    for turn in range(first // n, (first + count - 1) // n + 1):
        found.append(torch.randperm(n, generator=generator(seed * 1_000_003 + turn)))
    return torch.cat(found)[first % n :][:count]
