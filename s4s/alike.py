"""Solvers that begin alike, and so share evaluations on the same noise.

All that start at one level share the first; most textbook solvers begin with a step of Euler's, so those on one grid
share the second too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

import torch

from s4s.solver import Solver

Course = list[tuple[float, ...]]


def in_turn(solvers: Sequence[Solver], dtype: torch.dtype) -> Iterator[tuple[int, int]]:
    """Places of the solvers, in the order in which they share most, each with its number of shared evaluations.

    The first so many outputs of a solver are those of the one before it in that order, to the last bit in states of
    ``dtype``. Solvers with ``null`` or a starting noise of their own share none.
    """
    courses = [_course(solver, k, dtype) for k, solver in enumerate(solvers)]
    before: Course = []
    for k in sorted(range(len(solvers)), key=courses.__getitem__):
        same = takewhile(lambda pair: pair[0] == pair[1], zip(courses[k], before, strict=False))
        yield k, max(len(list(same)) - 1, 0)
        before = courses[k]


def _course(solver: Solver, k: int, dtype: torch.dtype) -> Course:
    """Where it starts; then of each evaluation its level and what makes its state, in numbers of a dtype."""
    alone = solver.null is not None or solver.noise is not None
    begin = (1.0, float(k)) if alone else (0.0, solver.sigma[0].item())
    start, weight = (array.to(dtype).tolist() for array in (solver.start, solver.weight))
    return [begin, *((level, start[n], *weight[n][:n]) for n, level in enumerate(solver.sigma_eval.tolist()))]
