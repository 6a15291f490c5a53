"""Grids that are formulas: positions ``u`` in [0, 1] -> noise levels of a process. ``s4s.grid`` takes them by name."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.process import Process


def logsnr(u: Tensor, process: Any) -> Tensor:
    """Uniform in ``lam = -log sigma`` (DPM-Solver, Lu et al. 2022)."""
    return _between(u, process.sigma_max, process.sigma_min, torch.log, torch.exp)


def edm(u: Tensor, process: Any, rho: Any = 7.0) -> Tensor:
    """Uniform in ``sigma^(1/rho)`` (EDM, Karras et al. 2022, Eq. 5)."""
    if not isinstance(rho, numbers.Real) or rho <= 0:
        raise Error(f"grid 'edm': rho = {rho} must be positive")
    rho = float(rho)
    return _between(u, process.sigma_max, process.sigma_min, lambda s: s ** (1 / rho), lambda v: v**rho)


def uniform(u: Tensor, process: Process) -> Tensor:
    """Uniform in the process's own time."""
    return process.level(_between(u, *process.time_range, lambda t: t, lambda v: v))


def quadratic(u: Tensor, process: Process) -> Tensor:
    """Uniform in the square root of the process's own time (DPM-Solver's ``time_quadratic``), counted from the data.

    LD3 gives the same name to ``t_min + (t_max - t_min) u^2``; pass those levels as a sequence if you need them.
    """
    first, last = process.time_range
    if first < last:  # data at t = 1
        return process.level(1 - _between(u, 1 - first, 1 - last, torch.sqrt, torch.square))
    return process.level(_between(u, first, last, torch.sqrt, torch.square))


SCHEDULES: dict[str, Callable[..., Tensor]] = {"logsnr": logsnr, "edm": edm, "uniform": uniform, "quadratic": quadratic}


def _between(
    u: Tensor, first: float, last: float, to: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor]
) -> Tensor:
    """Uniform between two values in a transformed variable; the ends exact."""
    a, b = to(torch.tensor([first, last], dtype=torch.float64))
    values = back(a + u * (b - a))
    ends = values.new_tensor([first, last])
    return torch.cat([ends[:1], values[1:-1], ends[1:]]) if len(u) > 1 else ends[:1]
