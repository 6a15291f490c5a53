"""Solver grids: nfe + 1 noise levels in EDM coordinates, float64, strictly decreasing."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, choose
from s4s.process import Process
from s4s.solver import check_levels


def grid(schedule: str | Sequence[float] | Tensor, process: Process, nfe: int, **options: Any) -> Tensor:
    """Noise levels of an ``nfe``-step grid from ``process.sigma_max`` down to ``process.sigma_min``.

    Args:
        schedule: ``logsnr``, ``edm`` (option ``rho``, default 7), ``uniform`` and ``quadratic`` (in the process's own
            time); ``dmn``, ``gits`` and ``ays`` (found by search, see ``s4s.search``); or a sequence of nfe + 1 levels
            of your own, strictly decreasing; its last may be 0.
        process: gives the ends, and the own time of ``uniform`` and ``quadratic``.
        nfe: number of intervals.
        options: of the schedule; ``end_at_zero=True`` on any named schedule takes ``nfe`` levels and appends 0, as the
            EDM sampler does.

    Returns:
        [nfe + 1] float64.

    Raises:
        Error: unknown schedule or option, nfe below 1, or levels that do not fall.
    """
    if not isinstance(nfe, int) or nfe < 1:
        raise Error(f"nfe = {nfe!r} must be a whole number of at least 1")
    if not isinstance(schedule, str):
        return _own(schedule, nfe)
    make = _maker(schedule)
    intervals = nfe - 1 if options.pop("end_at_zero", False) else nfe
    u = torch.linspace(0, 1, intervals + 1, dtype=torch.float64)
    try:
        inspect.signature(make).bind(u, process, **options)
    except TypeError as error:
        raise Error(f"grid {schedule!r}: {error}") from error
    sigma = make(u, process, **options)
    if intervals < nfe:
        sigma = torch.cat([sigma, sigma.new_zeros(1)])
    check_levels(sigma, strictly=True)
    return sigma


def logsnr(u: Tensor, process: Any) -> Tensor:
    """Uniform in ``lam = -log sigma`` (DPM-Solver, Lu et al. 2022)."""
    return _between(u, process.sigma_max, process.sigma_min, torch.log, torch.exp)


def edm(u: Tensor, process: Any, rho: float = 7.0) -> Tensor:
    """Uniform in ``sigma^(1/rho)`` (EDM, Karras et al. 2022, Eq. 5)."""
    if not isinstance(rho, int | float) or rho <= 0:
        raise Error(f"grid 'edm': rho = {rho} must be positive")
    return _between(u, process.sigma_max, process.sigma_min, lambda s: s ** (1 / rho), lambda v: v**rho)


def uniform(u: Tensor, process: Process) -> Tensor:
    """Uniform in the process's own time."""
    return process.level(_between(u, *process.time_range, lambda t: t, lambda v: v))


def quadratic(u: Tensor, process: Process) -> Tensor:
    """Uniform in the square root of the process's own time (DPM-Solver's ``time_quadratic``).

    LD3 gives the same name to ``t_min + (t_max - t_min) u^2``; pass those levels as a sequence if you need them.
    """
    return process.level(_between(u, *process.time_range, torch.sqrt, torch.square))


GRIDS: dict[str, Callable[..., Tensor]] = {"logsnr": logsnr, "edm": edm, "uniform": uniform, "quadratic": quadratic}


def _maker(schedule: str) -> Callable[..., Tensor]:
    """The function behind a name; searches need solvers, which know grids, so they are looked up late."""
    if schedule in GRIDS:
        return GRIDS[schedule]
    from s4s.search import SEARCHES

    if schedule not in SEARCHES:
        raise choose("grid", schedule, {**GRIDS, **SEARCHES})
    return SEARCHES[schedule]


def _between(
    u: Tensor, first: float, last: float, to: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> Tensor:
    """Uniform between two values in a transformed variable; the ends exact."""
    a, b = to(torch.tensor([first, last], dtype=torch.float64))
    values = back(a + u * (b - a))
    ends = values.new_tensor([first, last])
    return torch.cat([ends[:1], values[1:-1], ends[1:]]) if len(u) > 1 else ends[:1]


def _own(levels: Sequence[float] | Tensor, nfe: int) -> Tensor:
    try:
        sigma = torch.as_tensor(levels, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise Error(f"a grid of your own must be a sequence of numbers: {error}") from error
    if sigma.shape != (nfe + 1,):
        raise Error(f"a grid for nfe {nfe} has {nfe + 1} levels, got shape {list(sigma.shape)}")
    check_levels(sigma.detach(), strictly=True)
    return sigma
