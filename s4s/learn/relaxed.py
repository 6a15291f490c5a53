"""The relaxed objective of S4S: how near the teacher a student comes when its noises may move a little.

``L_relax(phi) = E_{x_T} min_{x' : ||x' - x_T|| <= r sigma_T} d(Psi_phi(x'), Psi_*(x_T))`` (S4S, arXiv:2502.17423).
"""

from __future__ import annotations

import torch
from torch import Tensor

from s4s.learn.distance import Distance
from s4s.learn.frozen import Frozen
from s4s.learn.teacher import TeacherSet
from s4s.solver import Denoise, Solver, sample

ROWS = 256  # of a network call, at the most


def relaxed_distances(
    solver: Solver, network: Frozen, samples: TeacherSet, d: Distance, reach: float, steps: int = 10
) -> Tensor:
    """[n] float64, the least distances found in the ball of radius ``reach`` around each noise, by projected descent.

    Upper bounds of the inner minimum, at most the plain distances; ``reach`` = 0 gives those.
    """
    found, rows = [], min(ROWS, network.microbatch or ROWS)
    for first in range(0, len(samples), rows):
        part = samples.part(first, first + rows)
        x_T, y, c = part.x_T, part.y, part.condition
        shift = torch.zeros_like(x_T)
        least = torch.full((len(x_T),), torch.inf, dtype=torch.float64, device=x_T.device)
        for k in range(steps + 1 if reach else 1):
            distances, slope = pull(solver, network.with_gradient(c), d, x_T, y, shift)
            least = torch.minimum(least, distances.double())
            shift = descend(shift, slope, reach, 0.5 * 0.8**k)
        found.append(least)
    return torch.cat(found)


def pull(solver: Solver, denoise: Denoise, d: Distance, x_T: Tensor, y: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """Distances [B] of the student to ``y`` from ``x_T + shift``, and their slopes [B, ...] by the shift."""
    shift = shift.detach().requires_grad_(True)
    distances = d(sample(solver, denoise, x_T + shift, check=False), y)
    (slope,) = torch.autograd.grad(distances.sum(), shift)
    return distances.detach(), slope


def descend(shift: Tensor, slope: Tensor, reach: float, step: float = 0.5) -> Tensor:
    """Each sample's shift, ``step * reach`` further down its slope, then back onto the ball of radius ``reach``.

    A slope that is not finite moves nothing.
    """
    slope = torch.where(_norm(slope).isfinite(), slope, 0.0)
    shift = shift - step * reach * slope / _norm(slope).clamp(min=1e-30)
    return shift * (reach / _norm(shift).clamp(min=1e-30)).clamp(max=1)


def _norm(x: Tensor) -> Tensor:
    """[B, ...] -> [B, 1, ...], the Euclidean norm of each sample."""
    return x.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.ndim - 1))
