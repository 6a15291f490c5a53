"""Distances between a student's and a teacher's samples.

A distance is a feature map: ``d(a, b) = mean over features of (features(a) - features(b))^2``, one number a sample.
Written so, Gauss-Newton applies to all of them, LPIPS included. A distance whose differences do not count by their
square (L1) says how they do, and by which weights least squares stands in for it (iteratively reweighted).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.values import require_function


@dataclass(frozen=True)
class Distance:
    """A feature map [B, ...] -> [B, F] and its name; calling it gives [B] distances.

    Args:
        penalty: what differences ``r`` [B, F] of features count, entry by entry; their squares unless said otherwise.
        weight: ``r -> penalty'(r) / (2 r)``, [B, F]; None is 1, right for squares. With features of Jacobian J, half
            the distance has the gradient ``mean(J (weight r))`` and, at most, the curvature ``mean(J weight J)``.
    """

    name: str
    features: Callable[[Tensor], Tensor]
    penalty: Callable[[Tensor], Tensor] = torch.square
    weight: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        require_function(self.features, "features of a distance", "lambda x: x.flatten(1)")

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Args: [B, ...] each, data units. Returns: [B]."""
        if student.shape != teacher.shape:
            raise Error(f"distance between shapes {list(student.shape)} and {list(teacher.shape)}")
        return self.between(self.features(student), self.features(teacher))

    def between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The same from features [B, F] that are already there."""
        return self.penalty(student - teacher).mean(1)


def l1(width: float = 1e-3) -> Distance:
    """Mean absolute difference of pixels or latents, its kink rounded: ``sqrt(r^2 + width^2) - width``."""
    return Distance(
        "l1",
        lambda x: x.flatten(1),
        lambda r: r**2 / ((r**2 + width**2).sqrt() + width),
        lambda r: 0.5 / (r**2 + width**2).sqrt(),
    )


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


def perceptual(
    taps: Callable[[Tensor], list[Tensor]],
    name: str = "feature",
    heads: Sequence[Tensor] | None = None,
    eps: float = 1e-4,
) -> Distance:
    """LPIPS' form (Zhang et al. 2018, Eq. 1) on any network's activations.

    Each tap [B, C, H, W] is scaled to unit length over channels; squared differences are averaged over space, summed
    over channels and taps.

    Args:
        heads: [C] weight of every channel of each tap, not negative; default all one.
        eps: added to the length.
    """

    require_function(taps, "taps", "lambda x: [net(x)]")

    def features(x: Tensor) -> Tensor:
        parts = []
        for i, tap in enumerate(taps(x)):
            square = tap.square().sum(1, keepdim=True)
            length = square.clamp(min=torch.finfo(tap.dtype).tiny).sqrt()  # so that its slope at 0 is 0, not NaN
            unit = tap / (length + eps)
            if heads is not None:
                unit = unit * heads[i].to(tap).sqrt()[:, None, None]
            parts.append(unit.flatten(1) / (tap.shape[2] * tap.shape[3]) ** 0.5)
        joined = torch.cat(parts, 1)
        return joined * joined.shape[1] ** 0.5  # the mean over features becomes the sum LPIPS takes

    return Distance(name, features)


def decoded(d: Distance, decode: Callable[[Tensor], Tensor]) -> Distance:
    """A distance of what latents decode to: ``decode`` maps [B, ...] latents to [B, ...] images."""
    if not isinstance(d, Distance):
        raise Error(f"decoded takes a distance, such as s4s.distance('lpips'), got a {type(d).__name__}")
    require_function(decode, "decode", "model.decode")
    return replace(d, name=f"{d.name} decoded", features=lambda x: d.features(decode(x)))


def total(*parts: tuple[float, Distance]) -> Distance:
    """Weighted sum of distances, weights >= 0, one at least above."""
    if not any(share > 0 for share, _ in parts) or any(share < 0 for share, _ in parts):
        raise Error("a sum of distances needs a positive weight and no negative one")
    sizes: list[int] = []  # features of each part; penalty and weight come after features

    def features(x: Tensor) -> Tensor:
        made = [d.features(x) for _, d in parts]
        sizes[:] = [f.shape[1] for f in made]
        return torch.cat(made, 1)

    def each(of: Callable[[Distance, Tensor], Tensor], r: Tensor) -> Tensor:
        """A function of every part's differences, so scaled that the mean over all is the sum."""
        values = [of(d, part) for (_, d), part in zip(parts, r.split(sizes, -1), strict=True)]
        scaled = zip(parts, values, sizes, strict=True)
        return torch.cat([share * sum(sizes) / size * value for (share, _), value, size in scaled], -1)

    def penalty(r: Tensor) -> Tensor:
        return each(lambda d, part: d.penalty(part), r)

    def weight(r: Tensor) -> Tensor:
        return each(lambda d, part: torch.ones_like(part) if d.weight is None else d.weight(part), r)

    return Distance("+".join(f"{share:g}*{d.name}" for share, d in parts), features, penalty, weight)
