"""Moments of a batch: the spread of samples, which a mean of distances between pairs does not see.

What a student cannot know it averages: that lowers every distance, and samples lose contrast and variety. The gap is
what two batches differ by as a whole: their Frechet distance (squared 2-Wasserstein, of Gaussians with diagonal
covariances) over the features of a ``Distance``, a feature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR = 1e-6  # added to a variance: a feature that never varies has a slope all the same


def moments(features: Tensor) -> Tensor:
    """Mean and standard deviation over the batch: [B, F] -> [2, F] float64."""
    return _from_raw(_raw(features))


def derivatives(features: Tensor, tangents: Sequence[Tensor]) -> Tensor:
    """Derivatives of ``moments`` [p, 2, F] float64 as the features [B, F] move along p tangents [B, F]."""
    mean, deviation = moments(features)
    centred = features.double() - mean
    return torch.stack([torch.stack([t.mean(0), (t * centred).mean(0) / deviation]) for t in tangents])


def gap(pieces: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Mean over features of the squared differences of means and of standard deviations.

    Args:
        pieces: of one batch: features [B, F] of student and teacher.
    """
    return Whole.of(pieces).gap


@dataclass(frozen=True)
class Whole:
    """Of a whole batch, for its pieces: means and mean squares [2, F] of the student's features, the teacher's moments.

    ``seed`` is that of the random signs of all pieces.
    """

    raw: Tensor
    teacher: Tensor
    seed: int = 0

    @classmethod
    def of(cls, pieces: Sequence[tuple[Tensor, Tensor]], seed: int = 0) -> Whole:
        total = sum(len(student) for student, _ in pieces)
        of = (sum(len(part) / total * _raw(part) for part in side) for side in zip(*pieces, strict=True))
        student, teacher = map(torch.as_tensor, of)
        return cls(student, _from_raw(teacher), seed)

    @property
    def gap(self) -> float:
        return (_from_raw(self.raw) - self.teacher).square().sum(0).mean().item()

    def about(self, features: Tensor) -> Tensor:
        """Difference of the batch's moments [2, F], with slopes by one piece's features as if it had all the weight."""
        raw = _raw(features)
        return _from_raw(self.raw + (raw - raw.detach())) - self.teacher


def _raw(features: Tensor) -> Tensor:
    return torch.stack([features.double().mean(0), features.double().square().mean(0)])


def _from_raw(raw: Tensor) -> Tensor:
    mean, square = raw
    return torch.stack([mean, ((square - mean**2).clamp(min=0) + FLOOR).sqrt()])
