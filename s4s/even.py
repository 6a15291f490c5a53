"""The grid on which first-order steps err alike, from a network's own paths: ``s4s.grid("even", process, nfe, ...)``.

A step of ``h`` in ``lam = -log sigma`` that holds the network's output D fixed misses ``h^2 |dD/dlam| / 2`` of it. So
that all steps miss the same share of the state x, levels lie as densely as the root of ``|dD/dlam| / |x|``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4s.classical import solver
from s4s.noise import noise
from s4s.schedules import logsnr
from s4s.solver import Denoise, Solver, sample
from s4s.values import require_device, require_dtype, whole

SAMPLES, STEPS = 32, 24  # paths that levels are found on, and the steps of each
LEAST = 1e-3  # of the largest density: where the output stands still levels lie this far apart at most


@dataclass(frozen=True)
class Even:
    """How the levels of a path are spread.

    Args:
        sigma: [N+1] levels of the path. ``share``: [N+1] of all steps, those that lie before each, from 0 to 1.
    """

    sigma: Tensor
    share: Tensor

    @classmethod
    def of(cls, sigma: Tensor, speed: Tensor) -> Even:
        """From ``|dD/dlam| / |x|`` [N-1] on the steps of a path; the last, of unknown speed, is like the one before."""
        h = -sigma.log().diff()
        density = torch.cat([speed, speed[-1:]]).sqrt()
        if not (density.isfinite().all() and density.any()):  # it says nothing, so all levels are as good
            density = torch.ones_like(h)
        steps = (density.clamp(min=LEAST * density.max().item()) * h).cumsum(0)
        return cls(sigma, torch.cat([steps.new_zeros(1), steps / steps[-1]]))

    @classmethod
    def along(cls, path: Solver, parts: Iterable[tuple[Denoise, Tensor]]) -> Even:
        """From the network itself, over the mean of some runs of a path: a denoiser and its x_T [B, ...] a part."""
        found = zip(*(_moved(path, denoise, x_T) for denoise, x_T in parts), strict=True)
        moved, size = (torch.cat(each, 1).mean(1) for each in found)
        return cls.of(path.sigma, moved / size / -path.sigma.log().diff()[:-1])

    def levels(self, intervals: int) -> Tensor:
        """[intervals + 1] levels between the path's ends; of none the first."""
        wanted = np.linspace(0, 1, intervals + 1)
        found = torch.from_numpy(np.exp(np.interp(wanted, self.share.numpy(), self.sigma.log().numpy())))
        return torch.cat([self.sigma[:1], found[1:-1], self.sigma[-1:]])[: intervals + 1]


def path_of(process: Any) -> Solver:
    """What paths are followed by: DPM-Solver++(3M) on the logSNR grid."""
    return solver("dpmpp", logsnr(torch.linspace(0, 1, STEPS + 1, dtype=torch.float64), process), order=3)


@torch.no_grad()
def _moved(path: Solver, denoise: Denoise, x_T: Tensor) -> tuple[Tensor, Tensor]:
    """[N-1, B] norms of what the output moves by in each step of a path, and of the states that the steps begin at."""
    moved, size = list[Tensor](), list[Tensor]()
    last: Tensor | None = None

    def keep(n: int, x: Tensor, D: Tensor) -> None:
        nonlocal last
        if last is not None:
            moved.append(_norm(D - last))
        size.append(_norm(x))
        last = D

    sample(path, denoise, x_T, check=False, callback=keep)
    return torch.stack(moved), torch.stack(size[:-1])


def _norm(each: Tensor) -> Tensor:
    """[B] of [B, ...]."""
    return each.double().flatten(1).norm(dim=1).cpu()


def even(
    u: Tensor,
    process: Any,
    *,
    denoise: Denoise,
    shape: tuple[int, ...],
    warmup: int = SAMPLES,
    seed: int = 0,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Levels between which first-order steps err alike, on the mean of some paths of 24 steps.

    Args:
        u: [nfe+1]; only its length matters.
        denoise: the network, of any process.
        shape: of one sample, without the batch.
        warmup: paths, from ``s4s.noise(seed, ...)``, all in one batch.
        device, dtype: of the paths.
    """
    return even_of(process, denoise, shape, warmup, seed, device, dtype).levels(len(u) - 1)


def even_of(
    process: Any,
    denoise: Denoise,
    shape: tuple[int, ...],
    warmup: int,
    seed: int,
    device: str | torch.device,
    dtype: torch.dtype = torch.float32,
) -> Even:
    """How even levels of a process are spread, for any number of them; arguments as ``even`` takes them."""
    require_device(device)
    require_dtype(dtype)
    path = path_of(process)
    x_T = path.x_T(noise(seed, range(whole(warmup, "grid 'even': warmup")), shape).to(device, dtype))
    return Even.along(path, [(denoise, x_T)])
