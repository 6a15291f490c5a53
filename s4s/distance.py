"""Distances between a student's and a teacher's samples.

A distance is a feature map: ``d(a, b) = mean over features of (features(a) - features(b))^2``, one number a sample.
Written so, Gauss-Newton applies to all of them, LPIPS included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from s4s.errors import Error, choose


@dataclass(frozen=True)
class Distance:
    """A feature map [B, ...] -> [B, F] and its name; calling it gives [B] distances."""

    name: str
    features: Callable[[Tensor], Tensor]

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Args: [B, ...] each, data units. Returns: [B]."""
        if student.shape != teacher.shape:
            raise Error(f"distance between shapes {list(student.shape)} and {list(teacher.shape)}")
        return ((self.features(student) - self.features(teacher)) ** 2).mean(1)


def l2() -> Distance:
    """Mean squared difference of pixels or latents."""
    return Distance("l2", lambda x: x.flatten(1))


def feature(taps: Callable[[Tensor], list[Tensor]], name: str = "feature") -> Distance:
    """Mean squared difference of a network's activations, every tap [B, C, H, W] with the same weight."""

    def features(x: Tensor) -> Tensor:
        parts = [tap.flatten(1) for tap in taps(x)]
        count = sum(part.shape[1] for part in parts)
        return torch.cat([part * (count / (len(parts) * part.shape[1])) ** 0.5 for part in parts], 1)

    return Distance(name, features)


def perceptual(taps: Callable[[Tensor], list[Tensor]], name: str = "perceptual") -> Distance:
    """LPIPS' form (Zhang et al. 2018, Eq. 1) on any network's activations, every channel with weight one.

    Each tap [B, C, H, W] is scaled to unit length over channels; squared differences are averaged over space, summed
    over channels and taps.
    """

    def features(x: Tensor) -> Tensor:
        parts = []
        for tap in taps(x):
            unit = tap / (tap.square().sum(1, keepdim=True).sqrt() + 1e-4)
            parts.append(unit.flatten(1) / (tap.shape[2] * tap.shape[3]) ** 0.5)
        joined = torch.cat(parts, 1)
        return joined * joined.shape[1] ** 0.5  # the mean over features becomes the sum LPIPS takes

    return Distance(name, features)


def total(*parts: tuple[float, Distance]) -> Distance:
    """Weighted sum of distances, weights >= 0."""
    if not parts or any(weight < 0 for weight, _ in parts):
        raise Error("a sum of distances needs at least one part and no negative weight")

    def features(x: Tensor) -> Tensor:
        made = [(weight, d.features(x)) for weight, d in parts]
        count = sum(f.shape[1] for _, f in made)
        return torch.cat([f * (weight * count / f.shape[1]) ** 0.5 for weight, f in made], 1)

    return Distance("+".join(f"{weight:g}*{d.name}" for weight, d in parts), features)


def distance(name: str | Distance) -> Distance:
    """A distance by name; those that need a network are built by their own function and passed as they are."""
    if isinstance(name, Distance):
        return name
    if name not in DISTANCES:
        raise choose("distance", name, DISTANCES)
    return DISTANCES[name]()


DISTANCES: dict[str, Callable[[], Distance]] = {"l2": l2}
