"""The descent of a curve: batches visit its numbers of evaluations in turn, and each counts by its own loss."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from s4s.curve import Curve
from s4s.learn.objective import Batch, Objective
from s4s.learn.quadratic import Memory, Quadratic, step
from s4s.learn.robust import robust
from s4s.learn.schedule import RIDGE
from s4s.learn.stream import DAMPING, EASED, LEAST, MOST, RAISED, SLACK, TRIALS, draw
from s4s.solver import Solver

TINY = 1e-30  # a loss that counts as none
UNIT, FEWEST = 4, 4  # evaluations at which a batch has the rows of its schedule, and the fewest rows elsewhere
RECENT = 0.3  # of a number's last loss in what its next ones are divided by


@dataclass(frozen=True)
class Visit:
    """A batch at one number of evaluations: its samples, their distances [B] and the tolerance of both."""

    nfe: int
    index: Tensor
    tolerance: float
    distances: Tensor


@dataclass
class Descent:
    """Where the fit of a curve stands.

    Args:
        curve: what is fitted. ``theta``: [p] its coefficients now, and what the batches so far say of the loss.
        seed: of the batches, of the projections and of the order of visits.
        damping: how far a step is trusted.
        taken, steps: samples drawn and steps made so far.
        scale: number of evaluations -> its loss, smoothed: what its batches are divided by.
        before: the visits of the step before.
    """

    curve: Curve
    theta: Tensor
    memory: Memory
    seed: int
    damping: float = DAMPING
    taken: int = 0
    steps: int = 0
    scale: dict[int, float] = field(default_factory=dict)
    before: list[Visit] = field(default_factory=list)

    @classmethod
    def of(cls, curve: Curve, seed: int) -> Descent:
        """At a curve."""
        theta = curve.theta.detach().flatten()
        return cls(curve, theta, Memory.of(len(theta)), seed)

    @property
    def reached(self) -> Curve:
        return self.curve.replace(theta=self.theta.reshape(self.curve.theta.shape))

    def loss(self, visits: Sequence[Visit]) -> float:
        """Sum of the visits' robust losses, each in units of its number's."""
        value = sum(robust(v.distances, v.tolerance).mean().item() / self.scale[v.nfe] for v in visits)
        return value if value == value else math.inf

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and numbers that the steps to come hang on."""
        tensors = {"theta": self.theta, "A": self.memory.A, "c": self.memory.c}
        for k, visit in enumerate(self.before):
            tensors |= {f"index{k}": visit.index, f"distances{k}": visit.distances}
        numbers = {key: getattr(self, key) for key in ("damping", "taken", "steps")} | {"weight": self.memory.weight}
        before = [[visit.nfe, visit.tolerance] for visit in self.before]
        return tensors, numbers | {"scale": [*self.scale.items()], "before": before}

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Inverse of ``state``."""
        self.theta, self.memory = tensors["theta"], Memory(tensors["A"], tensors["c"], numbers["weight"])
        self.damping, self.taken, self.steps = numbers["damping"], numbers["taken"], numbers["steps"]
        self.scale = {int(nfe): value for nfe, value in numbers["scale"]}
        self.before = [Visit(nfe, tensors[f"index{k}"], tolerance, tensors[f"distances{k}"])
                       for k, (nfe, tolerance) in enumerate(numbers["before"])]  # fmt: skip


def advance(descent: Descent, objective: Objective, rows: Mapping[int, int], keep: float, small: bool) -> None:
    """One step: a batch at each of some numbers joins what is remembered, and moves the curve if that proves better.

    Args:
        rows: number of evaluations -> samples, for the numbers of this step. ``keep``: share of the past that is kept.
        small: whether the step before is judged together with this one, and noise may pass for a gain.
    """
    visits: list[Visit] = []
    for nfe, count in rows.items():
        index = draw(descent.seed, descent.taken, min(count, len(objective.train)), len(objective.train))
        descent.taken += len(index)
        seed = descent.seed * 1_000_003 + descent.steps
        arrays = partial(descent.curve.arrays, nfe)
        (here,) = objective.linearise([Batch(arrays, descent.theta, objective.train.at(index), seed)])
        if here.finite:
            past = descent.scale.get(nfe, here.loss)
            descent.scale[nfe] = (1 - RECENT) * past + RECENT * here.loss + TINY
            model = _divided(here, descent.scale[nfe])
            descent.memory = descent.memory.add(model, descent.theta, 1.0 if visits else keep)
            visits.append(Visit(nfe, index, here.tolerance, here.distances))
    if visits:
        _move(descent, objective, visits, descent.before if small else [], SLACK if small else 1.0)
    descent.steps += 1


def rows_at(rows: int, nfe: int) -> int:
    """Samples of a batch at a number of evaluations, where it has ``rows`` at ``UNIT``.

    All batches cost the same, then. The fewer evaluations, the further from the teacher, and the noisier what a sample
    says. A batch counts by its samples, so the smaller numbers of evaluations count more, too.
    """
    return max(FEWEST, round(rows * UNIT / nfe))


def _move(descent: Descent, objective: Objective, now: list[Visit], before: list[Visit], slack: float) -> None:
    """Step to the model's damped minimum; damping rises until the loss falls, or the trials are spent.

    Only what the numbers of evaluations share moves: where each has values of its own, none helps the others.
    """
    judged = [*now, *before]
    memory = _held(descent)
    loss, shared = descent.loss(judged), [torch.eye(len(descent.theta), dtype=torch.float64)[:, descent.curve.smooth]]
    for _ in range(TRIALS):
        theta = step(memory, descent.theta, shared, descent.damping)
        found = [_tried(descent.curve, theta, objective, visit) for visit in judged]
        if descent.loss(found) < loss * slack:
            descent.theta, descent.damping = theta, max(descent.damping / EASED, LEAST)
            now = found[: len(now)]
            break
        descent.damping = min(descent.damping * RAISED, MOST)
    descent.before = now


def _tried(curve: Curve, theta: Tensor, objective: Objective, visit: Visit) -> Visit:
    """A visit's samples at other coefficients."""
    arrays = curve.arrays(visit.nfe, theta)
    if not all(array.isfinite().all() for array in arrays):
        return replace(visit, distances=torch.full_like(visit.distances, math.inf))
    return replace(visit, distances=objective.distances(Solver(*arrays), objective.train.at(visit.index)))


def _held(descent: Descent) -> Memory:
    """What is remembered, with a pull towards the curve that the fit began at."""
    pull, memory = RIDGE * descent.memory.weight, descent.memory
    A = memory.A + pull * torch.eye(len(memory.A), dtype=torch.float64)
    return replace(memory, A=A, c=memory.c - pull * descent.curve.theta.detach().flatten())


def _divided(model: Quadratic, unit: float) -> Quadratic:
    return replace(model, gradient=model.gradient / unit, curvature=model.curvature / unit)
