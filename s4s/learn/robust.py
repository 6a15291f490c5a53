"""Cauchy's loss: samples that a student sends elsewhere do not rule a fit."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 4.0  # of the median distance: where a sample begins to count less


def robust(distances: Tensor, tolerance: float) -> Tensor:
    """Cauchy's loss of each sample, ``c log(1 + d / c)``: samples the student sends elsewhere do not rule the fit.

    Where a teacher's path splits (one digit or another), a few-step solver sends some noises to the other side. They
    are the largest distances and the steepest, and no solver brings them back.
    """
    return distances if tolerance == float("inf") else tolerance * torch.log1p(distances / tolerance)


def tolerance_of(distances: Tensor) -> float:
    """For ``robust``: a few times the median of a batch's distances; infinite where that says nothing."""
    tolerance = TOLERANCE * distances.median().item()
    return tolerance if 0 < tolerance < float("inf") else float("inf")


def robust_mean(distances: Tensor) -> float:
    """Mean of ``robust`` with the distances' own tolerance: what streams are compared by."""
    return robust(distances, tolerance_of(distances)).mean().item()


def shares(distances: Tensor, tolerance: float) -> Tensor:
    """What a small change of each sample's distance counts: the derivative of ``robust``."""
    return 1 / (1 + distances / tolerance)
