"""Quadratic models of a loss near some parameters, and their sum over the batches of a stream.

A batch gives a model of half its loss about its own parameters: ``g . (z - theta) + (z - theta) . H (z - theta) / 2``.
A single small batch says little, so a stream keeps the sum of all it has seen, older ones with less and less weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Quadratic:
    """At some parameters: loss, gradient [p] and curvature [p, p] of half of it, network evaluations a sample.

    And the tolerance that the loss was taken with, and the distance of each sample [B], without it. A piece of a batch
    has rows [k, p] too: the mean of the pieces' rows, times itself, is curvature of the whole batch.
    """

    loss: float
    gradient: Tensor
    curvature: Tensor
    evaluations: int
    tolerance: float
    distances: Tensor
    rows: Tensor | None = None

    @property
    def finite(self) -> bool:
        return bool(self.gradient.isfinite().all() and self.curvature.isfinite().all())


def mean(parts: Sequence[Quadratic]) -> Quadratic:
    """Of the parts of a batch, each counting by its samples."""
    distances = torch.cat([part.distances for part in parts])
    share = [len(part.distances) / len(distances) for part in parts]
    gradient = torch.stack([w * part.gradient for w, part in zip(share, parts, strict=True)]).sum(0)
    curvature = torch.stack([w * part.curvature for w, part in zip(share, parts, strict=True)]).sum(0)
    rows = [w * part.rows for w, part in zip(share, parts, strict=True) if part.rows is not None]
    if rows:
        whole = torch.stack(rows).sum(0)
        curvature = curvature + whole.T @ whole
    loss, first = sum(w * part.loss for w, part in zip(share, parts, strict=True)), parts[0]
    return Quadratic(loss, gradient, curvature, first.evaluations, first.tolerance, distances)


@dataclass(frozen=True)
class Memory:
    """Sum of the models of past batches: gradient ``A z + c`` and curvature ``A`` at ``z``, both over ``weight``."""

    A: Tensor
    c: Tensor
    weight: float = 0.0

    @classmethod
    def of(cls, parameters: int) -> Memory:
        """No batch yet."""
        return cls(torch.zeros(parameters, parameters, dtype=torch.float64), torch.zeros(parameters).double())

    def add(self, model: Quadratic, theta: Tensor, keep: float) -> Memory:
        """With the model of a batch at ``theta``, which counts by its samples, after ``keep`` of what was there."""
        w, H = len(model.distances), model.curvature
        return Memory(keep * self.A + w * H, keep * self.c + w * (model.gradient - H @ theta), keep * self.weight + w)

    def at(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Gradient [p] and curvature [p, p] of the mean of all batches' models."""
        return (self.A @ theta + self.c) / self.weight, self.A / self.weight


def step(memory: Memory, theta: Tensor, turns: Sequence[Tensor], damping: float) -> Tensor:
    """Parameters to try: the damped minimum of the model over one block's moves [p, q] after the other.

    Levenberg and Marquardt's damping, in units of each direction's own curvature.
    """
    gradient, curvature = memory.at(theta)
    for moves in turns:
        block = moves.T @ curvature @ moves
        unit = block.diagonal().clamp(min=1e-12 * block.diagonal().max().item() + 1e-30)
        solved, _ = torch.linalg.solve_ex(block + damping * torch.diag(unit), moves.T @ gradient)
        theta, gradient = theta - moves @ solved, gradient - curvature @ (moves @ solved)
    return theta
