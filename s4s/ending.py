"""A solver's arrays taken on from its last level to 0."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

TABLES = ("start", "weight", "null")
"""Arrays with a row a node."""


def finished(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With a last node that is the output at the node before, guided as the last one was: ``x[N+1] = D[N]``."""
    last, n = arrays["sigma"][-1:], len(arrays["sigma_eval"])
    made = {"sigma": torch.cat([arrays["sigma"], torch.zeros_like(last)])}
    made["sigma_eval"] = torch.cat([arrays["sigma_eval"], last])
    made["start"] = torch.nn.functional.pad(arrays["start"], (0, 1))
    for key in ("weight", "null"):
        if key in arrays:
            made[key] = torch.nn.functional.pad(arrays[key], (0, 1, 0, 1))
    end = torch.zeros_like(made["weight"])
    end[n + 1, n] = 1
    if "null" not in made:
        return made | {"weight": made["weight"] + end}
    scale = _last_scale(arrays["weight"], arrays["null"])
    return made | {"weight": made["weight"] + scale * end, "null": made["null"] + (1 - scale) * end}


def _last_scale(weight: Tensor, null: Tensor) -> Tensor | float:
    """Of guidance: ``g`` of the last output as the last node weighs it, ``w (g D + (1 - g) D_null)``."""
    together = weight[-1, -1] + null[-1, -1]
    return weight[-1, -1] / together if null[-1, -1] and together else 1.0


def prolonged(arrays: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """With the last node moved to level 0, along the line from the last node above its level."""
    sigma = arrays["sigma"]
    above = int((sigma > sigma[-1]).nonzero()[-1])
    share = sigma[-1] / sigma[above]
    made = {"sigma": torch.cat([sigma[:-1], torch.zeros_like(sigma[-1:])])}
    for key in TABLES:
        if key in arrays:
            rows = arrays[key]
            made[key] = torch.cat([rows[:-1], ((rows[-1] - share * rows[above]) / (1 - share))[None]])
    return made
