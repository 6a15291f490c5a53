"""Teacher sets: what a strong solver makes of known noises. No data set is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from s4s.errors import Error
from s4s.solver import Denoise, Solver, noise, sample

BATCH = 100  # samples per network call, aligned to the sample index: results do not depend on shards or ranges


@dataclass(frozen=True)
class TeacherSet:
    """Pairs of starting noise and teacher output.

    Args:
        y: [n, ...] teacher outputs in data units.
        seed, first: the noises are ``noise(seed, range(first, first + n))``, times ``sigma_max``.
        sigma_max: level of the starting noise.
        provenance: JSON-able record of the teacher.
        condition: [n, ...] what the network was given with each sample; None for an unconditional one.
    """

    y: Tensor
    seed: int
    sigma_max: float
    first: int = 0
    provenance: Mapping[str, Any] = field(default_factory=dict)
    condition: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def x_T(self) -> Tensor:
        """[n, ...] starting noises in EDM coordinates, in the dtype and on the device of ``y``."""
        indices = range(self.first, self.first + len(self))
        return self.sigma_max * noise(self.seed, indices, tuple(self.y.shape[1:])).to(self.y)

    def part(self, first: int, last: int) -> TeacherSet:
        """Samples ``first`` to ``last - 1`` of this set."""
        rows = None if self.condition is None else self.condition[first:last]
        return replace(self, y=self.y[first:last], first=self.first + first, condition=rows)


def teacher_set(
    solver: Solver, denoise: Denoise, n: int, shape: tuple[int, ...], seed: int = 0, **options: Any
) -> TeacherSet:
    """Run a strong solver on ``n`` seeded noises.

    Args:
        solver: the teacher, for example ``s4s.solver("dpmpp", fine_grid)``.
        denoise: the network.
        n: number of pairs.
        shape: of one sample, without the batch.
        seed: of the noises.
        options: of ``generate`` (``dtype``, ``device``, ``progress``).
    """
    if n < 1:
        raise Error(f"a teacher set needs at least one sample, got n = {n}")
    y = generate(solver, lambda _: denoise, range(n), shape, seed, **options)
    record = {"name": solver.name, "nfe": solver.nfe} | dict(solver.provenance)
    return TeacherSet(y, seed, solver.sigma[0].item(), provenance=record)


def generate(
    solver: Solver,
    denoiser: Callable[[range], Denoise],
    indices: range,
    shape: tuple[int, ...],
    seed: int,
    *,
    batch: int = BATCH,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    progress: str | None = None,
) -> Tensor:
    """Samples of consecutive indices, [len(indices), *shape].

    ``denoiser`` gives the network under the conditions of some indices. It always sees whole batches of ``batch`` whose
    first index is a multiple of it (surplus samples are made and dropped), so a sample has the same bits whichever
    range, shard or machine asks for it.
    """
    if indices.step != 1 or len(indices) < 1 or indices.start < 0:
        raise Error(f"samples are made for a rising range of indices from 0 on, got {indices}")
    first = indices.start - indices.start % batch
    made = []
    for start in tqdm(range(first, indices.stop, batch), desc=progress, disable=progress is None, mininterval=2):
        rows = range(start, start + batch)
        x_T = solver.sigma[0].item() * _sent(noise(seed, rows, shape).to(dtype), device)
        with torch.no_grad():
            made.append(sample(solver, denoiser(rows), x_T))
    return torch.cat(made)[indices.start - first :][: len(indices)]


def _sent(x: Tensor, device: str | torch.device) -> Tensor:
    """To a device; to a GPU from pinned memory, without waiting for it."""
    if torch.device(device).type == "cuda":
        x = x.pin_memory()
    return x.to(device, non_blocking=True)
