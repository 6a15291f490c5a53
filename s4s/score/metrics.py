"""FID, KID, precision and recall of features, with our own float64 arithmetic.

Features are tensors [n, d] float64 in memory; the work is done on their device, in chunks of bounded size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from s4s.errors import Error
from s4s.noise import philox

BLOCK = 1 << 24  # float64 values held at a time in pairwise distances and weighted sums: 128 MiB


class Gaussian(Protocol):
    """What a Frechet distance needs of a set of features: ``Moments``, or ``reference.Statistics`` from a file.

    The mean is ``shift + offset``: two means far from 0 are compared without the digits that their sums would lose.
    """

    @property
    def count(self) -> int | None: ...
    @property
    def shift(self) -> Tensor: ...
    @property
    def offset(self) -> Tensor: ...
    @property
    def covariance(self) -> Tensor: ...


@dataclass(frozen=True)
class Moments:
    """Sums over features less a fixed ``shift``, so that a mean far from 0 loses no digits; they merge over shards.

    Args:
        count: of features.
        total: [d] sum of ``feature - shift``, float64.
        outer: [d, d] sum of the outer products of ``feature - shift``.
        shift: [d] one of the features, by default the first.
    """

    count: int
    total: Tensor
    outer: Tensor
    shift: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Moments of features [n, d]."""
        return cls.weighted(features, features.new_ones(len(features)))

    @classmethod
    def weighted(cls, features: Tensor, counts: Tensor) -> Moments:
        """Moments of features [n, d] with row ``i`` taken ``counts[i]`` times; rows taken 0 times cost nothing."""
        rows, shift = counts.nonzero().flatten(), features[:1].sum(0)
        total, outer = torch.zeros_like(shift), shift.new_zeros(len(shift), len(shift))
        for part in rows.split(max(1, BLOCK // len(shift))):
            taken, weight = features[part] - shift, counts[part].to(features)
            total += weight @ taken
            outer.addmm_((taken * weight[:, None]).T, taken)
        return cls(int(counts.sum()), total, outer, shift)

    @classmethod
    def merge(cls, parts: Iterable[Moments]) -> Moments:
        """Moments of the union, about the first part's shift; parts in a fixed order give a bitwise fixed result."""
        first, *others = parts
        same = [first, *(part.about(first.shift) for part in others)]
        count, total, outer = zip(*((p.count, p.total, p.outer) for p in same), strict=True)
        return cls(sum(count), torch.stack(total).sum(0), torch.stack(outer).sum(0), first.shift)

    def about(self, shift: Tensor) -> Moments:
        """The same features' sums about another shift."""
        moved = self.shift - shift
        cross = torch.outer(self.total, moved)
        outer = self.outer + cross + cross.T + self.count * torch.outer(moved, moved)
        return Moments(self.count, self.total + self.count * moved, outer, shift)

    @property
    def offset(self) -> Tensor:
        """[d] the mean, less the shift."""
        return self.total / self.count

    @property
    def mean(self) -> Tensor:
        """[d]"""
        return self.shift + self.offset

    @property
    def covariance(self) -> Tensor:
        """[d, d], unbiased."""
        return (self.outer - torch.outer(self.total, self.total) / self.count) / (self.count - 1)


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Squared Frechet distance of two Gaussians (Heusel et al. 2017), in float64, never below 0.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2)``. With ``C = F F^T`` the trace is the least of
    ``|F_a - F_b Q|^2`` over rotations Q (Procrustes): a sum of squares, so equal sets lose no digits to a difference.
    """
    return FrechetTo(a)(b)


class FrechetTo:
    """Squared Frechet distance to one fixed Gaussian, factored once, on ``device``."""

    def __init__(self, a: Gaussian, device: torch.device | None = None) -> None:
        self.shift, self.offset, covariance = (x.to(device) for x in _checked(a))
        self.factor = _factor(covariance)

    def __call__(self, b: Gaussian) -> float:
        """The distance of ``b``."""
        shift, offset, covariance = (x.to(self.shift.device) for x in _checked(b))
        if shift.shape != self.shift.shape:
            raise Error(f"features of {len(self.shift)} and of {len(shift)} dimensions have no Frechet distance")
        factor = _factor(covariance)
        left, _, right = torch.linalg.svd(self.factor.T @ factor)
        means, rest = (self.shift - shift) + (self.offset - offset), self.factor @ left - factor @ right.T
        return (means**2).sum().add((rest**2).sum()).item()


def sampling_std(samples: Gaussian, reference: Gaussian) -> float:
    """Standard deviation of a FID over other samples of the same distribution, from the samples' sums alone.

    By the delta method, for features that are Gaussian: with F F^T the samples' covariance and d the difference of the
    means, ``n var = 4 |F^T d|^2 + 2 |F^T (1 - T) F|^2``, T the optimal map to the reference. It knows nothing of
    another fit, network or reference. Near the reference, where FID is mostly bias, it is too small.
    """
    shift, offset, covariance = _checked(samples)
    other_shift, other_offset, other = _checked(reference)
    values, vectors = torch.linalg.eigh(covariance)
    factor = vectors * values.clamp(min=0).sqrt()
    inner, rotation = torch.linalg.eigh(factor.T @ other @ factor)
    transported = rotation * inner.clamp(min=0).sqrt() @ rotation.T
    means = factor.T @ ((shift - other_shift) + (offset - other_offset))
    spread = torch.diag(values.clamp(min=0)) - transported
    variance = 4 * (means**2).sum() + 2 * (spread**2).sum()
    return (variance / samples.count).sqrt().item()


def _factor(covariance: Tensor) -> Tensor:
    """``F`` [d, d] with ``covariance = F F^T``; eigenvalues at or below ``d eps`` of the largest are rounding, so 0."""
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > len(values) * torch.finfo(values.dtype).eps * values[-1]
    return vectors * values.where(kept, 0.0).sqrt()


def _checked(a: Gaussian) -> tuple[Tensor, Tensor, Tensor]:
    if a.count is None or a.count >= 2:
        made = a.shift, a.offset, a.covariance
        if all(values.isfinite().all() for values in made):
            return made
    raise Error("a Frechet distance needs at least two samples with finite features")


@dataclass(frozen=True)
class Interval:
    """A 95% confidence interval of a FID over the choice of samples.

    Args:
        low, high: ``fid -+ 1.96 std``, not below 0.
        std: standard deviation of the replicates.
        bias: mean of the replicates minus ``fid``: what drawing only this many samples adds. Not subtracted anywhere.
        replicates, seed: of the bootstrap.
    """

    fid: float
    low: float
    high: float
    std: float
    bias: float
    replicates: int
    seed: int


def bootstrap(features: Tensor, reference: Gaussian, replicates: int = 50, seed: int = 0) -> Interval:
    """Confidence interval of the FID of features [n, d] float64 against a fixed reference.

    A replicate draws n samples with replacement, by its own counter-based generator: the same replicates in any order.
    The interval is about the FID of n samples, not its limit, and blind to the choice of fit, seed and reference.
    """
    if replicates < 2:
        raise Error(f"a bootstrap needs at least 2 replicates, got {replicates}")
    n, distance = len(features), FrechetTo(reference, features.device)
    fid = distance(Moments.of(features))
    draws = (philox(seed, r).integers(n, size=n) for r in range(replicates))
    counts = (torch.from_numpy(np.bincount(draw, minlength=n)).to(features.device) for draw in draws)
    values = np.array([distance(Moments.weighted(features, count)) for count in counts])
    std = float(values.std(ddof=1))
    low, high = max(0.0, fid - 1.96 * std), fid + 1.96 * std
    return Interval(fid, low, high, std, float(values.mean()) - fid, replicates, seed)


def kid(a: Tensor, b: Tensor, subsets: int = 100, size: int = 1000, seed: int = 2020) -> dict[str, float]:
    """Kernel distance of features [n, d] (Binkowski et al. 2018): unbiased MMD^2, mean and deviation over subsets.

    Kernel ``(x.y / d + 1)^3``. Defaults and subsets are torch-fidelity's.
    """
    if min(len(a), len(b)) < max(size, 2):
        raise Error(f"KID on subsets of {size} needs that many samples, got {len(a)} and {len(b)}")
    random, values = np.random.RandomState(seed), []
    for _ in range(subsets):
        x, y = (f[torch.from_numpy(random.choice(len(f), size, replace=False)).to(f.device)] for f in (a, b))
        xx, xy, yy = ((u @ v.T / u.shape[1] + 1) ** 3 for u, v in ((x, x), (x, y), (y, y)))
        within = xx.sum() - xx.trace() + yy.sum() - yy.trace()
        values.append((within / (size * (size - 1)) - 2 * xy.mean()).item())
    return {"kid": float(np.mean(values)), "kid_std": float(np.std(values))}


def precision_recall(generated: Tensor, real: Tensor, k: int = 3) -> dict[str, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019) of features [n, d].

    Precision: share of generated samples within the ball of some real one, the ball reaching to its k-th neighbour
    among the real ones. Recall: the same with the roles exchanged.
    """
    if min(len(generated), len(real)) <= k:
        raise Error(f"precision and recall need more than {k} samples, got {len(generated)} and {len(real)}")
    radius = torch.cat([d.kthvalue(k + 1).values for _, d in _distances(generated, generated)])
    radius_real = torch.cat([d.kthvalue(k + 1).values for _, d in _distances(real, real)])
    inside = torch.zeros_like(radius, dtype=torch.bool)
    covered = torch.zeros_like(radius_real, dtype=torch.bool)
    for rows, d in _distances(generated, real):
        inside[rows] = (d <= radius_real).any(1)
        covered |= (d <= radius[rows, None]).any(0)
    precision, recall = inside.double().mean().item(), covered.double().mean().item()
    return {"precision": precision, "recall": recall, "f_score": 2 * precision * recall / max(1e-5, precision + recall)}


def within_classes(generated: Tensor, asked: Tensor, real: Tensor, labels: Tensor, told: Tensor) -> dict[str, float]:
    """What a class-conditional model makes of its classes: the mean FID within a class, and its accuracy.

    Args:
        generated, real: [n, d] and [m, d] features.
        asked, labels: [n] and [m] their classes: those that samples were asked for, and those of the real ones.
        told: [n] what the scoring classifier takes the samples for.
    """
    counts = {int(c): (int((asked == c).sum()), int((labels == c).sum())) for c in asked.unique()}
    if few := next((c for c, both in counts.items() if min(both) < 2), None):
        raise Error(f"class {few} has {counts[few][0]} samples and {counts[few][1]} real ones; a FID needs 2 of each")
    each = [frechet(Moments.of(generated[asked == c]), Moments.of(real[labels == c])) for c in counts]
    return {"fid_within_classes": float(np.mean(each)), "class_accuracy": (told == asked).double().mean().item()}


def to_teacher(features: Tensor, teacher: Tensor) -> dict[str, float]:
    """How well samples imitate the teacher's own: the FID between the two sets, and the mean squared distance of pairs.

    Args:
        features, teacher: [n, d], a row of each from the same noise. A FID of the same noises lacks most of what
            drawing only n samples adds: it is 0 for the teacher itself.
    """
    if features.shape != teacher.shape:
        raise Error(f"features of {len(features)} samples and of {len(teacher)} of the teacher are not pairs")
    apart = ((features - teacher) ** 2).sum(1).mean().item()
    return {"fid_to_teacher": frechet(Moments.of(features), Moments.of(teacher)), "distance_to_teacher": apart}


def _distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of x, and their distances [rows, len(y)] to all of y."""
    step = max(1, BLOCK // len(y))
    for first in range(0, len(x), step):
        rows = slice(first, first + step)
        yield rows, torch.cdist(x[rows], y)


def fid_label(count: int, full: int = 50_000) -> str:
    """``FID`` at the usual sample count, ``FID@n`` below it."""
    return "FID" if count >= full else f"FID@{count}"
