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
from s4s.learn.distance import Distance
from s4s.learn.distances import distance
from s4s.learn.family import is_textbook
from s4s.learn.fit import FitResult, fit
from s4s.learn.frozen import Frozen
from s4s.learn.methods import LEVELS, METHODS
from s4s.learn.teacher import TeacherSet
from s4s.solver import Denoise, Solver, sample


@dataclass(frozen=True, eq=False)
class Fitted(Bundle):
    """The solvers that ``fit_nfes`` found; ``results``: number of evaluations -> its ``FitResult``."""

    results: Mapping[int, FitResult] = field(default_factory=dict)


def fit_nfes(
    start: Callable[[int], Solver],
    nfes: Iterable[int],
    denoise: Denoise | Callable[[Tensor], Denoise],
    teacher: TeacherSet,
    method: str = "s4s-alt",
    **options: Any,
) -> Fitted:
    """Learn a solver for each number of evaluations, from the smallest on.

    A method that learns the grid starts from the textbook solver on the grid found for the number before, stretched,
    where that is nearer to the teacher than the start itself (by the distance; ``moments`` do not count here).

    Args:
        start: number of evaluations -> where to start, such as
            ``lambda nfe: s4s.solver("ipndm", s4s.grid("edm", process, nfe))``.
        nfes: numbers of evaluations.
        denoise, teacher, method, options: as ``s4s.fit`` takes them; ``resume`` is of a single fit.

    Returns:
        A bundle: number of evaluations -> its solver, rising; ``results`` has the ``FitResult`` of each.

    Raises:
        Error: no numbers, a start with another number of evaluations, or as ``s4s.fit``.
    """
    if "resume" in options:
        raise Error("resume is the file of a single fit; call s4s.fit for each number of evaluations to resume it")
    found: dict[int, FitResult] = {}
    last: Solver | None = None
    for nfe in sorted(set(nfes)):
        begin = start(nfe)
        if begin.nfe != nfe:
            raise Error(f"start({nfe}) has {begin.nfe} evaluations")
        if last is not None and is_textbook(begin):
            d, held_out = distance(options.get("distance", "l2")), teacher.part(len(teacher) * 3 // 4, len(teacher))
            network = Frozen(denoise, options.get("microbatch"))
            begin = min(begin, _stretched(begin, last), key=lambda solver: _loss(solver, network, held_out, d))
        found[nfe] = fit(begin, denoise, teacher, method, **options)
        last = found[nfe].solver if any({*LEVELS} & {*turn} for turn in METHODS[method].cycle) else None
    if not found:
        raise Error("nfes holds no number of evaluations")
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


def _loss(solver: Solver, network: Frozen, held_out: TeacherSet, d: Distance) -> float:
    with torch.no_grad():
        parts = network.parts((held_out.x_T, held_out.y, held_out.condition), 256)
        return sum(d(sample(solver, network.under(c), x_T, check=False), y).sum().item() for x_T, y, c in parts)
