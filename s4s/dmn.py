"""The grid that minimises a bound on the error of a third-order solver: ``s4s.grid("dmn", process, nfe)``."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor

from s4s.errors import require_choice
from s4s.values import whole

SMALLEST_SHARE = 1e-3  # of an even step in log level: the least any DMN step may shrink to
SMOOTHING = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)  # of the start's objective: how far its kinks are rounded, in turn


def dmn(u: Tensor, process: Any, power: Literal[1, 2] = 2, truncation: int = 3) -> Tensor:
    """The grid that minimises DMN's bound on a third-order solver's error (Xue et al., arXiv:2402.17376).

    Args:
        u: [nfe+1]; only its length matters.
        power: the network's error at a level is taken as ``sigma^power / alpha``: 2 in the published code, 1 its advice
            for models in pixel space.
        truncation: see ``dmn_objective``.
    """
    require_choice("power of grid 'dmn'", power, (1, 2))
    truncation = whole(truncation, "truncation of grid 'dmn'", 0)
    found = _dmn(len(u), process.sigma_max, process.sigma_min, power, truncation)
    return torch.tensor(found, dtype=torch.float64)


@lru_cache(maxsize=256)  # every cell on this grid asks for it anew
def _dmn(nodes: int, first: float, last: float, power: int, truncation: int) -> list[float]:
    logits = torch.zeros(max(nodes - 2, 0), dtype=torch.float64, requires_grad=True)  # even steps in log level
    ends = torch.tensor([first, last], dtype=torch.float64)
    if len(logits):
        scale = dmn_objective(_falling(logits.detach(), ends), power, truncation)
        for width in SMOOTHING:
            rounding = width * scale

            def smooth(z: Tensor, rounding: Tensor = rounding) -> Tensor:
                return dmn_objective(_falling(z, ends), power, truncation, rounding) / scale

            _minimise(smooth, logits)
    levels: list[float] = _falling(logits.detach(), ends)[:nodes].tolist()
    return levels


def dmn_objective(sigma: Tensor, power: int = 2, truncation: int = 3, rounding: Tensor | float = 0.0) -> Tensor:
    """DMN's objective, differentiable: how much network errors of a known size can move the last node.

    Step n of a solver of order ``k = min(3, n + 1, N - n)`` integrates ``e^lam`` times the polynomial through the last
    k outputs. Each output's error counts by its weight: summed over the steps that use it (they can cancel), except in
    the first step, the last step and the steps before ``truncation``, which count alone, by their root sum of squares.

    Args:
        sigma: [N+1] falling levels in EDM coordinates.
        power: error of the network at a level is ``sigma^power / alpha``, with ``alpha^2 + sigma^2 = 1``.
        truncation: 3 in the published code, where a comment suggests 0 above 7 steps. With 0 the terms can be made to
            cancel almost wholly, and the minimum is a degenerate grid.
        rounding: replaces every ``|v|`` by ``sqrt(v^2 + rounding^2)``.
    """
    N = len(sigma) - 1
    error = sigma if power == 1 else sigma**2 / (1 + sigma**2).sqrt()
    order = torch.tensor([min(3, n + 1, N - n) for n in range(N)])
    alone = (order == 1) | (torch.arange(N) < truncation)
    lag = torch.arange(3)
    at = (torch.arange(N)[:, None] - lag).clamp(min=0)  # [N, 3] the outputs a step may use, latest first
    used = lag < order[:, None]
    pull = torch.where(used, _adams_weights(-sigma.log(), at, used) * error[at] / sigma[:-1, None], 0.0)
    together = torch.where(alone[:, None], 0.0, pull)
    total = torch.zeros(N, dtype=sigma.dtype).index_add(0, at.flatten(), together.flatten())
    single = (pull[alone].square().sum(1) + rounding**2).sqrt().sum()
    touched = sorted(set(at[used & ~alone[:, None]].tolist()))
    return single + (total[touched].square() + rounding**2).sqrt().sum()


def _falling(logits: Tensor, ends: Tensor) -> Tensor:
    """[N-1] logits -> [N+1] levels that fall whatever the logits, the ends exact."""
    n = len(logits) + 1
    share = torch.softmax(torch.cat([logits, logits.new_zeros(1)]), 0)
    share = (share + SMALLEST_SHARE / n) / (1 + SMALLEST_SHARE)
    inner = torch.exp(ends[0].log() + (ends[1] / ends[0]).log() * share.cumsum(0)[:-1])
    return torch.cat([ends[:1], inner, ends[1:]])


def _minimise(objective: Callable[[Tensor], Tensor], at: Tensor) -> None:
    """Move ``at`` to a local minimum, by L-BFGS."""
    optimiser = torch.optim.LBFGS(
        [at], max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-12, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = objective(at)
        value.backward()
        return value

    optimiser.step(closure)


def _adams_weights(lam: Tensor, at: Tensor, used: Tensor) -> Tensor:
    """[N, 3] integrals over each step of ``e^(lam - lam_n)`` times the Lagrange polynomials through its outputs.

    They integrate the powers of ``lam - lam_n`` exactly: a Vandermonde system, with unit rows for outputs not used.
    """
    h = lam.diff()
    moments = [torch.expm1(h)]
    for p in (1, 2):
        moments.append(h.exp() * h**p - p * moments[-1])
    offset = lam[at] - lam[:-1, None]
    powers = torch.stack([torch.ones_like(offset), offset, offset**2], 1)  # [N, power, output]
    square = used[:, :, None] & used[:, None, :]
    system = torch.where(square, powers, torch.eye(3, dtype=lam.dtype))
    solution: Tensor = torch.linalg.solve(system, torch.where(used, torch.stack(moments, 1), 0.0))
    return solution
