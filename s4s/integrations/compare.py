"""What can be seen not to match between what a solver was fitted for and the pipeline it goes into."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

FAR = {"guidance": 0.2, "last alphas_cumprod": 1e-2}  # relative; from here on a solver was fitted for something else
ROUNDING = 1e-9


def mismatches(config: Mapping[str, Any], scheduler: Any, guidance: float | None) -> Iterator[str]:
    """One line each, with both values.

    Args:
        config: of the fitted scheduler.
        scheduler: the one the pipeline has.
        guidance: that the pipeline will be called with, if known.
    """
    theirs, card = scheduler.config, config["card"] or {}
    table = getattr(scheduler, "alphas_cumprod", None)
    found = {
        "prediction_type": (config["prediction_type"], theirs.get("prediction_type")),
        "num_train_timesteps": (config["num_train_timesteps"], theirs.get("num_train_timesteps")),
        "shift": (card.get("shift"), theirs.get("shift")),
        "last alphas_cumprod": (_last(config["trained_betas"]), None if table is None else float(table[-1])),
        "guidance": (card.get("guidance"), guidance),
    }
    for name, (mine, other) in found.items():
        if mine is not None and other is not None and _differ(mine, other, FAR.get(name, ROUNDING)):
            yield f"{name}: the solver is for {mine}, the pipeline has {other}"


def _last(betas: list[float] | None) -> float | None:
    return None if betas is None else (1 - torch.tensor(betas, dtype=torch.float64)).prod().item()


def _differ(mine: Any, other: Any, tolerance: float) -> bool:
    if isinstance(mine, int | float) and isinstance(other, int | float):
        return abs(mine - other) > tolerance * max(abs(mine), abs(other))
    return bool(mine != other)
