"""The states that a fine solver passes through, at any level between its nodes."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from s4s.solver import Denoise, Solver, sample


def nodes(solver: Solver, denoise: Denoise, x_T: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """States [B, ...] at all nodes of a solver, and network outputs at all but the last; keeps no gradients."""
    states: list[Tensor] = []
    outputs: list[Tensor] = []

    def keep(n: int, x: Tensor, D: Tensor) -> None:
        states.append(x)
        outputs.append(D)

    with torch.no_grad():
        last = sample(solver, denoise, x_T, callback=keep)
    return [*states, last], outputs


@dataclass(frozen=True)
class Passage:
    """A path of states down the levels, cubic in the level between nodes.

    Args:
        sigma: levels of the nodes, falling.
        states: [B, ...] at each node.
        slopes: dx/dsigma = (x - D) / sigma at all nodes but the last (the probability-flow ODE in EDM coordinates).
    """

    sigma: list[float]
    states: list[Tensor]
    slopes: list[Tensor]

    @classmethod
    def of(cls, solver: Solver, denoise: Denoise, x_T: Tensor) -> Passage:
        """The path of a solver; of nodes at one level, as Heun's, the last."""
        states, outputs = nodes(solver, denoise, x_T)
        sigma: list[float] = solver.sigma.tolist()
        kept = [n for n in range(solver.nfe) if sigma[n + 1] < sigma[n]]
        slopes = [(states[n] - outputs[n]) / sigma[n] for n in kept]
        return cls([*(sigma[n] for n in kept), sigma[-1]], [*(states[n] for n in kept), states[-1]], slopes)

    def at(self, sigma: float) -> Tensor:
        """The state at a level; beyond the ends, that at the end."""
        if sigma >= self.sigma[0]:
            return self.states[0]
        n = bisect_left(self.sigma, -sigma, key=lambda level: -level) - 1
        if n >= len(self.slopes):
            return self.states[-1]
        width = self.sigma[n] - self.sigma[n + 1]
        u = (self.sigma[n] - sigma) / width  # 0 at node n, 1 at the next
        a, b, slope = self.states[n], self.states[n + 1], -width * self.slopes[n]
        if n + 1 == len(self.slopes):  # the last interval knows no slope at its end: a parabola
            return a + u * slope + u**2 * (b - a - slope)
        after = -width * self.slopes[n + 1]
        return a + u * slope + u**2 * (3 * (b - a) - 2 * slope - after) + u**3 * (2 * (a - b) + slope + after)
