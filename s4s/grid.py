"""``s4s.grid``: nfe + 1 noise levels by name, in EDM coordinates, float64, strictly decreasing.

Formulas are in ``s4s.schedules``, grids found by search in ``s4s.search``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, require_choice
from s4s.process import Process
from s4s.schedules import SCHEDULES
from s4s.search import SEARCHES
from s4s.values import check_levels, doubles, require_between, whole


def grid(schedule: str | Sequence[float] | Tensor, process: Process, nfe: int, **options: Any) -> Tensor:
    """Noise levels of an ``nfe``-step grid from ``process.sigma_max`` down to ``process.sigma_min``.

    Args:
        schedule: ``logsnr``; ``edm`` or ``karras``, its other name (option ``rho``, default 7); ``uniform`` and
            ``quadratic`` (in the process's own time); ``dmn``, ``even``, ``gits`` and ``ays`` (found by
            search, see ``s4s.search``); or a sequence of nfe + 1 levels of your own, strictly decreasing; its last may
            be 0, as most hosts have it.
        process: gives the ends, and the own time of ``uniform`` and ``quadratic``.
        nfe: number of intervals.
        options: of the schedule; ``end_at_zero=True`` on any named schedule takes ``nfe`` levels and appends 0, as the
            EDM sampler does. ``end_at_zero=False`` on levels of your own puts ``sigma_min`` in the place of a final 0:
            learned solvers end above 0, and ``solver.finish()`` takes them there. A first level of your own that is
            ``sigma_max`` to float32 rounding, as hosts have it, becomes ``sigma_max``.

    Returns:
        [nfe + 1] float64.

    Raises:
        Error: unknown schedule or option, nfe below 1, or levels that do not fall.
    """
    nfe = whole(nfe, "nfe")
    if isinstance(process, type) or not hasattr(process, "sigma_max"):
        raise Error(f"a grid is of a process, such as s4s.EDM(), got {process!r:.60}")
    if not isinstance(schedule, str):
        return _own(schedule, process, nfe, **options)
    schedule = "edm" if schedule == "karras" else schedule
    require_choice("grid", schedule, GRIDS)
    make = GRIDS[schedule]
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


SINGLE = 1e-6  # relative; a level that went through float32 differs by less
SAME = 1e-3  # relative; a host's own smallest level, from a table in float32, is sigma_min to within less

GRIDS: dict[str, Callable[..., Tensor]] = SCHEDULES | SEARCHES


def _own(
    levels: Sequence[float] | Tensor, process: Process, nfe: int, end_at_zero: bool = True, **unknown: Any
) -> Tensor:
    if unknown:
        raise Error(f"levels of your own have no option {', '.join(unknown)}, only end_at_zero")
    sigma = doubles(levels, "a grid of your own")
    if sigma.shape != (nfe + 1,):
        raise Error(f"a grid for nfe {nfe} has {nfe + 1} levels, got shape {list(sigma.shape)}")
    check_levels(sigma.detach(), strictly=True)
    low, high = process.levels
    if not sigma.requires_grad and abs(sigma[0] / high - 1) < SINGLE:
        sigma = torch.cat([sigma.new_tensor([high]), sigma[1:]])
    require_between(sigma[-2].item(), sigma[0].item(), low, high)
    if sigma[-1] != 0 or end_at_zero:
        return sigma
    if sigma[-2] <= low * (1 + SAME):
        raise Error(f"the level before the final 0 is {sigma[-2].item():g}, and sigma_min {low:g}: leave the 0 out, "
                    f"ask for nfe {nfe - 1}, and let finish() add the last evaluation")  # fmt: skip
    return torch.cat([sigma[:-1], sigma.new_tensor([low])])
