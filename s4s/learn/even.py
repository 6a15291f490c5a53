"""Levels between which first-order steps err alike, from the paths of a few samples.

A step of ``h`` in ``lam = -log sigma`` that holds the network's output D fixed misses ``h^2 |dD/dlam| / 2`` of it. So
that all steps miss the same, levels lie as densely as the root of ``|dD/dlam|``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from s4s.classical import solver
from s4s.grid import grid
from s4s.learn.objective import CALL, Objective, after
from s4s.process import EDM
from s4s.solver import sample

SAMPLES, STEPS = 32, 24  # of the training noises, and of the path that each is followed on
LEAST = 1e-3  # of the largest density: where the output stands still levels lie this far apart at most


@dataclass(frozen=True)
class Even:
    """How a path's levels are spread.

    Args:
        sigma: [N+1] levels of the path. ``share``: [N+1] of all steps, those that lie before each, from 0 to 1.
    """

    sigma: Tensor
    share: Tensor

    @classmethod
    def of(cls, sigma: Tensor, outputs: Tensor) -> Even:
        """From the network's outputs [N, B, ...] at all levels [N+1] but the last."""
        h = -sigma.log().diff()
        speed = outputs.double().diff(dim=0).flatten(2).norm(dim=2).mean(1).cpu() / h[:-1]
        density = torch.cat([speed, speed[-1:]]).sqrt()
        if not (density.isfinite().all() and density.any()):  # it says nothing, so all levels are as good
            density = torch.ones_like(h)
        steps = (density.clamp(min=LEAST * density.max().item()) * h).cumsum(0)
        return cls(sigma, torch.cat([steps.new_zeros(1), steps / steps[-1]]))

    def levels(self, intervals: int) -> Tensor:
        """[intervals + 1] levels between the path's ends."""
        wanted = np.linspace(0, 1, intervals + 1)
        found = torch.from_numpy(np.exp(np.interp(wanted, self.share.numpy(), self.sigma.log().numpy())))
        return torch.cat([self.sigma[:1], found[1:-1], self.sigma[-1:]])


@torch.no_grad()
def even(objective: Objective, first: float, last: float) -> Even:
    """Follow a few training noises from the first level to the last, by DPM-Solver++(3M)."""
    path = solver("dpmpp", grid("logsnr", EDM(last, first), STEPS), order=3)
    found = list[Tensor]()
    for part in objective.train.at(slice(SAMPLES)).parts(objective.network.microbatch or CALL):
        outputs = list[Tensor]()
        denoise = after(part.first, objective.network.under(part.condition))
        objective.evaluations += (path.nfe - (part.first is not None)) * len(part)
        sample(path, denoise, part.x_T, check=False, callback=partial(_keep, outputs))
        found.append(torch.stack(outputs))
    return Even.of(path.sigma, torch.cat(found, 1))


def _keep(outputs: list[Tensor], n: int, x: Tensor, D: Tensor) -> None:
    outputs.append(D)
