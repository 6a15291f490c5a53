"""Solvers for several numbers of evaluations in one call, each grid learned from the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4s import classical
from s4s.bundle import Bundle
from s4s.errors import Error
from s4s.learn.family import is_textbook
from s4s.learn.fit import FitResult, fit
from s4s.learn.methods import moves_grid, phases
from s4s.learn.teacher import TeacherSet
from s4s.solver import Denoise, Solver, require_solver
from s4s.values import require_function, wholes


@dataclass(frozen=True, eq=False)
class Fitted(Bundle):
    """The solvers that ``fit_nfes`` found; ``results``: number of evaluations -> its ``FitResult``."""

    results: Mapping[int, FitResult] = field(default_factory=dict)


def fit_nfes(
    start: Callable[[int], Solver],
    nfes: int | Iterable[int],
    denoise: Denoise | Callable[[Tensor], Denoise],
    teacher: TeacherSet,
    method: str = "s4s-alt",
    **options: Any,
) -> Fitted:
    """Learn a solver for each number of evaluations, from the smallest on.

    A method that learns the grid races the start beside the same textbook solver on the grid found for the number
    before, stretched.

    Args:
        start: number of evaluations -> where to start, such as
            ``lambda nfe: s4s.solver("ipndm", s4s.grid("edm", process, nfe))``.
        nfes: numbers of evaluations, or one.
        denoise, teacher, method, options: as ``s4s.fit`` takes them; ``resume`` is of a single fit.

    Returns:
        A bundle: number of evaluations -> its solver, rising; ``results`` has the ``FitResult`` of each.

    Raises:
        Error: no numbers, a start with another number of evaluations, or as ``s4s.fit``.
    """
    if "resume" in options:
        raise Error("resume is the file of a single fit; call s4s.fit for each number of evaluations to resume it")
    require_function(start, "start", 'lambda nfe: s4s.solver("ipndm", s4s.grid("edm", process, nfe))')
    begins = {nfe: start(nfe) for nfe in wholes(nfes, "nfes")}
    for nfe, begin in begins.items():
        require_solver(begin)
        if begin.nfe != nfe:
            raise Error(f"start({nfe}) has {begin.nfe} evaluations")
    found: dict[int, FitResult] = {}
    last: Solver | None = None
    for nfe, begin in begins.items():
        raced = begin if last is None or not is_textbook(begin) else [begin, _stretched(begin, last)]
        found[nfe] = fit(raced, denoise, teacher, method, **options)
        last = found[nfe].solver if any(map(moves_grid, phases(method, is_textbook(begin)))) else None
    return Fitted({nfe: result.solver for nfe, result in found.items()}, {"method": method}, found)


def stretch(sigma: Tensor, steps: int) -> Tensor:
    """A grid [N+1] with another number of steps and the same ends, linear in log level between its nodes."""
    at = np.linspace(0, len(sigma) - 1, steps + 1)
    levels = np.exp(np.interp(at, np.arange(len(sigma)), sigma.log().numpy()))
    return torch.cat([sigma[:1], torch.from_numpy(levels[1:-1]), sigma[-1:]])


def _stretched(begin: Solver, last: Solver) -> Solver:
    """The textbook solver ``begin`` on the grid of ``last``."""
    name, options = begin.provenance["solver"], begin.provenance["options"]
    return classical.solver(name, stretch(last.sigma, begin.nfe), **options)
