"""The frozen network as a fit sees it: under conditions, and a few rows at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.guidance import apart
from s4s.learn.jacobian import PERTURBATION
from s4s.learn.memory import recompute
from s4s.solver import Denoise
from s4s.values import amount, whole


@dataclass(frozen=True)
class Frozen:
    """A network, rows it sees at a time, how far its input moves in derivatives, and recomputation.

    Raises:
        Error: one of them is of another type, or not positive.
    """

    denoise: Any
    microbatch: int | None = None
    perturbation: float = PERTURBATION
    checkpoint: bool | None = None

    def __post_init__(self) -> None:
        if self.microbatch is not None:
            whole(self.microbatch, "microbatch")
        if not amount(self.perturbation, "perturbation"):
            raise Error("perturbation = 0 must be positive: differences are taken over it")
        if self.checkpoint not in (None, True, False):
            raise Error(f"checkpoint = {self.checkpoint!r} must be True, False or None")

    def under(self, condition: Tensor | None) -> Denoise:
        return self.denoise if condition is None else self.denoise(condition)

    def with_gradient(self, condition: Tensor | None) -> Denoise:
        denoise = self.under(condition)
        if self.checkpoint is False:
            return denoise
        budget = 0 if self.checkpoint else None
        made, columns = recompute(denoise, budget), getattr(denoise, "columns", None)
        if columns is None:
            return made
        pair = recompute(lambda x, sigma: torch.cat(columns(x, sigma, True)), budget)
        alone = recompute(lambda x, sigma: columns(x, sigma, False)[0], budget)
        return apart(made, lambda x, sigma, both: pair(x, sigma).chunk(2) if both else [alone(x, sigma)],
                     denoise.guidance)  # type: ignore[attr-defined]  # fmt: skip
