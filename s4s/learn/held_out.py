"""What the held-out samples say of a solver: all of them at the end of a round, a few of them after every batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from s4s.learn.objective import Objective
from s4s.learn.robust import robust, tolerance_of
from s4s.solver import Solver

RULING = 32  # samples: the furthest, which make most of the mean, and most of what it gains from batch to batch


@dataclass
class HeldOut:
    """The held-out part of an objective, as its samples were found when they were all looked at last.

    Args:
        moments: weight of their gap.
        tolerance: of the robust mean, the same from look to look; None until the first.
        last: [n] distances at the last look.
    """

    objective: Objective
    moments: float
    tolerance: float | None = None
    last: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))

    def look(self, solver: Solver) -> tuple[float, float]:
        """Mean distance and robust mean, each with what moments add.

        The first chooses, the second says whether the loss still falls: it does not hang on a few samples.
        """
        self.last, more = self.objective.distances_and_gap(solver, self.objective.held_out, self.moments)
        self.tolerance = tolerance_of(self.last) if self.tolerance is None else self.tolerance
        plain = self.last.mean().item() + more
        return plain if plain == plain else math.inf, self.near(self.last, more)

    def near(self, distances: Tensor, more: float) -> float:
        """Robust mean of what was found of a solver, after the first look."""
        return robust(distances, math.inf if self.tolerance is None else self.tolerance).mean().item() + more

    def glance(self, solver: Solver) -> float:
        """A guess of the mean, from the samples that ruled it at the last look; moments are of all, so they say 0."""
        if self.moments:
            return 0.0
        ruling = self.last.topk(min(RULING, len(self.last))).indices
        found = self.objective.distances(solver, self.objective.held_out.at(ruling))
        return (self.last.sum() - self.last[ruling].sum() + found.sum()).item() / len(self.last)
