"""Others' learned updates, each as its paper or code has it, run once on coefficient rows as ``s4s.textbook`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.process import Process
from s4s.solver import Solver
from s4s.table import from_table
from s4s.textbook import Trace


class Rows(Trace):
    """A trace whose network may be told another level than the node's, and see the state by another scale.

    Models of variance preserving processes are given ``alpha(t) x`` and told ``t'``. In our coordinates, which divide
    by the alpha of what is told, the state they see is ``alpha(t) / alpha(t')`` times the node.
    """

    def __init__(self, nfe: int) -> None:
        super().__init__(torch.zeros(1, dtype=torch.float64), nfe)
        self.told: list[Tensor] = []

    def seen(self, x: Tensor, level: Tensor, told: Tensor | None = None, scale: Tensor | float = 1.0) -> Tensor:
        """Row of the data prediction, of a node ``x`` of ``level``."""
        if not self.left:
            raise Error(f"the update asks more often than {len(self.nodes)} times")
        self.told.append(level if told is None else told)
        self.nodes.append(scale * x)
        self.levels.append(level)
        return self.outputs[len(self.nodes) - 1]

    def solver(self, x: Tensor, level: Tensor, deviation: Tensor | float, **about: Any) -> Solver:
        """The solver that ends in node ``x``.

        Args:
            level: of the last node; weights that do not sum to 1 may bring it below 0, which is 0.
            deviation: of ``x_T``, noise alone.
            about: name and provenance.
        """
        rows, sigma = torch.stack([*self.nodes, x]), torch.stack([*self.levels, level.clamp(min=0)])
        start = float(deviation) / sigma[0] * rows[:, 0]
        return from_table(sigma, torch.stack(self.told), start, rows[:, 1:], **about)


class Decoupled(Rows):
    """``Rows`` for a textbook update: the j-th evaluation is told ``told[j]`` and sees ``scale[j]`` times the node."""

    def __init__(self, told: Tensor, scale: Tensor) -> None:
        super().__init__(len(told))
        self.own = list(zip(told, scale, strict=True))

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.seen(x, sigma, *self.own[len(self.nodes)])

    def eps(self, x: Tensor, sigma: Tensor) -> Tensor:
        D = self.denoise(x, sigma)
        return (self.nodes[-1] - D) / self.told[-1]


def analytic(x: Tensor, level: Tensor) -> Tensor:
    """The slope of data of variance 1: the first step that asks no network (AFS, Dockhorn et al. 2022)."""
    return x / (1 + level**2).sqrt()


def dyweight(grid: Tensor, weight: Tensor, scale: Tensor, afs: bool, **about: Any) -> Solver:
    """DyWeight (2603.11607): free weights over all slopes; where they do not sum to 1 the true level moves with them.

    Args:
        grid: [N+1] levels aimed at.
        weight: [N, N] of the slopes in each step.
        scale: what each level is multiplied with before the network is told; of the steps that ask it.
        afs: whether the first step asks no network.
        about: name and provenance.
    """
    rows = Rows(len(grid) - 1 - afs)
    x, level, slopes = rows.x_T, grid[0], list[Tensor]()
    for n, aim in enumerate(grid[1:]):
        if afs and n == 0:
            slopes.append(analytic(x, level))
        else:
            slopes.append((x - rows.seen(x, level, (scale[len(rows.told)] * level).abs())) / level)
        w = weight[n, : n + 1]
        x = x + (aim - level) * sum(a * d for a, d in zip(w, slopes, strict=True))
        level = level + w.sum() * (aim - level)
    return rows.solver(x, level, grid[0], **about)


def epd(grid: Tensor, points: Mapping[str, Tensor], afs: bool, **about: Any) -> Solver:
    """EPD (2507.14797): each step averages slopes at several points on the way, reached by Euler from its beginning.

    Args:
        grid: [N+1] levels.
        points: each [N, K]: ``r``, where between the step's ends in log level; ``time``, what its level is multiplied
            with before the network is told; ``weight`` of its slope, with its direction's scale.
        afs: whether the first step's beginning asks no network.
        about: name and provenance.
    """
    steps, count = points["r"].shape
    rows = Rows(steps * (1 + count) - afs)
    x = rows.x_T
    for n, (s, s_next) in enumerate(pairwise(grid)):
        d = analytic(x, s) if afs and n == 0 else (x - rows.seen(x, s)) / s
        middle = s_next ** points["r"][n] * s ** (1 - points["r"][n])
        x_next = x
        for k in middle.argsort(descending=True):  # of points that do not see each other, in falling order
            between = x + (middle[k] - s) * d
            slope = (between - rows.seen(between, middle[k], points["time"][n, k] * middle[k])) / middle[k]
            x_next = x_next + points["weight"][n, k] * (s_next - s) * slope
        x = x_next
    return rows.solver(x, grid[-1], grid[0], **about)


def gs(process: Process, times: Tensor, shift: Tensor, moved: Mapping[str, Tensor], **about: Any) -> Solver:
    """GS (2510.17699): multistep DPM-Solver++ with a number added to each coefficient, and to each time told.

    The state is the process's own, ``alpha x_0 + sigma eps``, from standard normal noise.

    Args:
        process: of the model.
        times: [N+1] of its own time, falling.
        shift: [N] added to what the network is told.
        moved: ``c`` and ``a``, each [order, N]: added to the weights of the outputs and of the states so far.
        about: name and provenance.
    """
    alpha, level = process.alpha(times), process.level(times)
    rows, told = Rows(len(shift)), times[:-1] + shift
    x, states, outputs = rows.x_T, list[Tensor](), list[Tensor]()
    for n, t in enumerate(told):
        D = rows.seen(x / alpha[n], level[n], process.level(t), alpha[n] / process.alpha(t))
        eps = (rows.nodes[-1] - D) / rows.told[-1]
        states, outputs = [x, *states][: len(moved["a"])], [x / alpha[n] - level[n] * eps, *outputs][: len(moved["c"])]
        x = alpha[n + 1] * level[n + 1] / (alpha[n] * level[n]) * x
        x = x + _dpm_solver(-level[: n + 2].log(), alpha[n + 1], moved["c"][:, n], outputs)
        x = x + sum(a * state for a, state in zip(moved["a"][:, n], states, strict=False))
    return rows.solver(x / alpha[-1], level[-1], 1.0, **about)


def _dpm_solver(lam: Tensor, alpha: Tensor, c: Tensor, m: Sequence[Tensor]) -> Tensor:
    """What the outputs ``m``, the last first, bring in a step of DPM-Solver++ with ``c`` added to its coefficients."""
    h = lam[-1] - lam[-2]
    phi_1 = torch.expm1(-h)
    x: Tensor = -(alpha * phi_1 + c[0]) * m[0]
    if len(m) == 1:
        return x
    r0 = (lam[-2] - lam[-3]) / h
    D1_0 = (m[0] - m[1]) / r0
    if len(m) == 2:
        return x - (alpha * phi_1 / 2 + c[1]) * D1_0
    r1, phi_2 = (lam[-3] - lam[-4]) / h, phi_1 / h + 1
    D2 = (D1_0 - (m[1] - m[2]) / r1) / (r0 + r1)
    x = x + (alpha * phi_2 + c[1]) * (D1_0 + r0 * D2) - (alpha * (phi_2 / h - 0.5) + c[2]) * D2
    return x + sum(each * output for each, output in zip(c[3:], m[3:], strict=False))
