"""The frozen network as a fit sees it: under conditions, and a few rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from s4s.learn.jacobian import PERTURBATION
from s4s.learn.memory import recompute
from s4s.solver import Denoise

Batch = tuple[Tensor, Tensor, Tensor | None]
"""Starting noises, teacher outputs and, for a conditional network, conditions: a row of each for every sample."""


@dataclass(frozen=True)
class Frozen:
    """A network, rows it sees at a time, how far its input moves in derivatives, and recomputation."""

    denoise: Any
    microbatch: int | None = None
    perturbation: float = PERTURBATION
    checkpoint: bool | None = None

    def under(self, condition: Tensor | None) -> Denoise:
        return self.denoise if condition is None else self.denoise(condition)

    def with_gradient(self, condition: Tensor | None) -> Denoise:
        denoise = self.under(condition)
        return denoise if self.checkpoint is False else recompute(denoise, 0 if self.checkpoint else None)

    def parts(self, batch: Batch, most: int) -> list[Batch]:
        """A batch in pieces of at most ``most`` samples, or of ``microbatch`` if that is less."""
        size = min(most, self.microbatch or most)
        x_T, y, condition = batch
        rows = [None] * len(x_T.split(size)) if condition is None else condition.split(size)
        return list(zip(x_T.split(size), y.split(size), rows, strict=True))
