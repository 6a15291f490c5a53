"""Grids found by search, without training: ``s4s.grid("dmn" | "even" | "gits" | "ays", process, nfe, ...)``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from s4s.classical import solver
from s4s.dmn import dmn
from s4s.errors import Error, require_choice
from s4s.even import even
from s4s.noise import noise
from s4s.passage import nodes
from s4s.schedules import edm
from s4s.solver import Denoise, Solver, require_solver
from s4s.values import amount, require_device, require_dtype, whole

Metric = Literal["dev", "l1", "l2"]


def gits(
    u: Tensor,
    process: Any,
    *,
    denoise: Denoise,
    shape: tuple[int, ...],
    teacher: Solver | None = None,
    warmup: int = 256,
    seed: int = 0,
    metric: Metric = "dev",
    coeff: float = 1.15,
    batch: int = 64,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """The cheapest path through a teacher's nodes (GITS, Chen et al., arXiv:2405.11326).

    Args:
        u: [nfe+1]; only its length matters.
        denoise: the network, of any process.
        shape: of one sample, without the batch.
        teacher: its nodes are the candidates; default ``gits_teacher``.
        warmup: trajectories that the costs are averaged over, from ``s4s.noise(seed, ...)``.
        metric, coeff: see ``gits_cost`` and ``gits_path``.
        batch: trajectories at a time. ``device``, ``dtype``: of the trajectories.
    """
    teacher = gits_teacher(process) if teacher is None else teacher
    require_solver(teacher)
    ends = torch.tensor([process.sigma_max, process.sigma_min], dtype=torch.float64)
    if not torch.allclose(teacher.sigma[[0, -1]], ends, rtol=1e-9):
        raise Error(f"grid 'gits': the teacher's levels must go from {ends[0].item():g} to {ends[1].item():g}")
    require_device(device)
    require_dtype(dtype)
    warmup, batch = whole(warmup, "grid 'gits': warmup"), whole(batch, "grid 'gits': batch")
    cost = mean_gits_cost(teacher, denoise, shape, warmup, seed, metric, batch=batch, device=device, dtype=dtype)
    path = gits_path(cost, max(len(u) - 1, 1), amount(coeff, "grid 'gits': coeff"))
    return step_levels(teacher)[path[: len(u)]]


def gits_teacher(process: Any) -> Solver:
    """The solver whose nodes are the candidates unless another is given: iPNDM of order 4, 60 steps on the EDM grid."""
    return solver("ipndm", edm(torch.linspace(0, 1, 61, dtype=torch.float64), process), order=4)


def step_levels(teacher: Solver) -> Tensor:
    """Levels that a solver's steps end at, the first node's included."""
    return teacher.sigma[_step_ends(teacher)]


def gits_cost(teacher: Solver, denoise: Denoise, x_T: Tensor, metric: Metric = "dev") -> Tensor:
    """Mean cost of one Euler step between any two of the teacher's levels, from and to its own trajectory.

    Args:
        x_T: [B, ...] starting noises in EDM coordinates.
        metric: ``l1`` or ``l2`` norm of what the step misses, or ``dev``: how much further than the teacher's node it
            ends from the straight line between the teacher's first and last node.

    Returns:
        [T+1, T+1] float64, zero on and below the diagonal.
    """
    require_choice("metric of grid 'gits'", metric, get_args(Metric))
    kept = _step_ends(teacher)
    sigma = teacher.sigma[kept]
    every, outputs = nodes(teacher, denoise, x_T)
    states = [every[n] for n in kept.tolist()]
    slopes = [(every[n] - outputs[n]) / teacher.sigma[n].to(x_T) for n in kept.tolist()[:-1]]
    last = len(sigma) - 1
    ends = states[0], states[last]
    cost = torch.zeros(last + 1, last + 1, dtype=torch.float64)
    for j in range(1, last + 1):
        own = torch.zeros(()) if j == last else _deviation(states[j], *ends)
        for i in range(j):
            x = states[i] + (sigma[j] - sigma[i]).to(x_T) * slopes[i]
            missed = (x - states[j]).flatten(1).double()
            each = _deviation(x, *ends) - own if metric == "dev" else missed.norm(p=int(metric[1]), dim=1)
            cost[i, j] = each.mean()
    return cost


def mean_gits_cost(
    teacher: Solver,
    denoise: Denoise,
    shape: tuple[int, ...],
    warmup: int,
    seed: int,
    metric: Metric,
    *,
    batch: int = 64,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """``gits_cost`` averaged over ``warmup`` trajectories, a batch at a time."""
    total = torch.zeros(())
    for first in range(0, warmup, batch):
        indices = range(first, min(first + batch, warmup))
        x_T = teacher.x_T(noise(seed, indices, shape).to(device, dtype))
        total = total + len(indices) / warmup * gits_cost(teacher, denoise, x_T, metric)
    return total


def gits_path(cost: Tensor, nfe: int, coeff: float = 1.15) -> list[int]:
    """Nodes of the cheapest path of ``nfe`` steps from the first to the last, by dynamic programming.

    A step costs ``cost[i, j]``, and each step further on counts ``coeff`` times more: the cost to go from a node is
    ``min_j cost[i, j] + coeff * (cost to go from j)``. The first of equal choices is taken.
    """
    T = len(cost) - 1
    if not 1 <= nfe <= T:
        raise Error(f"grid 'gits': {nfe} steps do not fit the teacher's {T}; give a teacher of more steps")
    table = cost.numpy()
    to_go, choices = table[:, T].copy(), list[Any]()
    for _ in range(nfe - 1):
        total = table[:, :T] + coeff * to_go[None, :T]
        total[np.tril_indices(T + 1, 0, T)] = np.inf  # only forward, and never to the last node early
        choices.insert(0, total.argmin(1))
        to_go = total.min(1)
    path = [0]
    for choice in choices:
        path.append(int(choice[path[-1]]))
    return [*path, T]


def ays(u: Tensor, process: Any, *, model: str) -> Tensor:
    """The published 10-step grid of a model (Align Your Steps, Sabour et al., arXiv:2404.14507), any number of steps.

    Interpolated linearly in log level, as its authors do; the ends become the process's own.

    Args:
        u: [nfe+1] positions from 0 to 1.
        model: ``sd15``, ``sdxl`` or ``svd``; the process must be the model's.
    """
    require_choice("model of grid 'ays'", model, AYS)
    table = np.log(AYS[model])
    first, last = process.sigma_max, process.sigma_min
    if max(abs(np.log(first) - table[0]), abs(np.log(last) - table[-1])) > 0.05:
        raise Error(f"grid 'ays' of {model} is for levels {AYS[model][0]:g} to {AYS[model][-1]:g}; this process has "
                    f"{first:g} to {last:g}")  # fmt: skip
    levels = np.exp(np.interp(u.numpy(), np.linspace(0, 1, len(table)), table))
    return torch.tensor([first, *levels[1:-1], last][: len(u)], dtype=torch.float64)


# https://research.nvidia.com/labs/toronto-ai/AlignYourSteps/howto.html; rounded, and with the last level replaced by 0,
# they are diffusers.schedulers.AysSchedules.
AYS = {
    "sd15": (14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092, 0.9642583904,
             0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582),
    "sdxl": (14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141, 0.5550693289,
             0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
}  # fmt: skip

SEARCHES: dict[str, Callable[..., Tensor]] = {"ays": ays, "dmn": dmn, "even": even, "gits": gits}


def _step_ends(teacher: Solver) -> Tensor:
    """Indices of the nodes that end steps: of nodes at one level, as the stages of Heun, the last."""
    falls = teacher.sigma.diff() < 0
    return torch.cat([falls, falls.new_ones(1)]).nonzero()[:, 0]


def _deviation(x: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """[B] distance of ``x`` from the line through ``first`` and ``last``."""
    offset, line = ((last - point).flatten(1).double() for point in (x, first))
    unit = line / line.norm(dim=1, keepdim=True)
    return (offset - (offset * unit).sum(1, keepdim=True) * unit).norm(dim=1)
