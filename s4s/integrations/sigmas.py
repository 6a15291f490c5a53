"""Whether the sigmas a host samples on are a solver's own: its weights belong to its levels."""

from __future__ import annotations

import torch
from torch import Tensor

NEAR = 1e-3  # relative: levels that went through text or float32 are the solver's own, another schedule's are not


def same_levels(sigmas: Tensor, own: Tensor) -> bool:
    """Whether two rows of levels [N+1] are equal but for rounding; their numbers may differ."""
    sigmas, own = (values.detach().double().cpu() for values in (sigmas, own))
    return sigmas.shape == own.shape and torch.allclose(sigmas, own, rtol=NEAR, atol=0)
