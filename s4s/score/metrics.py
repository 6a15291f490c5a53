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

BLOCK = 1 << 24  # float64 values held at a time in pairwise distances and weighted sums: 128 MiB


class Gaussian(Protocol):
    """What a Frechet distance needs of a set of features: ``Moments``, or ``reference.Statistics`` from a file."""

    @property
    def count(self) -> int | None: ...
    @property
    def mean(self) -> Tensor: ...
    @property
    def covariance(self) -> Tensor: ...


@dataclass(frozen=True)
class Moments:
    """Sums that merge exactly over shards: count, sum [d] and sum of outer products [d, d], float64."""

    count: int
    total: Tensor
    outer: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Moments of features [n, d]."""
        return cls(len(features), features.sum(0), features.T @ features)

    @classmethod
    def weighted(cls, features: Tensor, counts: Tensor) -> Moments:
        """Moments of features [n, d] with row ``i`` taken ``counts[i]`` times; rows taken 0 times cost nothing."""
        rows = counts.nonzero().flatten()
        total, outer = features.new_zeros(features.shape[1]), features.new_zeros(features.shape[1], features.shape[1])
        for part in rows.split(max(1, BLOCK // features.shape[1])):
            taken, weight = features[part], counts[part].to(features)
            total += weight @ taken
            outer.addmm_((taken * weight[:, None]).T, taken)
        return cls(int(counts.sum()), total, outer)

    @classmethod
    def merge(cls, parts: Iterable[Moments]) -> Moments:
        """Moments of the union; add the parts in a fixed order for a bitwise fixed result."""
        count, total, outer = zip(*((p.count, p.total, p.outer) for p in parts), strict=True)
        return cls(sum(count), torch.stack(total).sum(0), torch.stack(outer).sum(0))

    @property
    def mean(self) -> Tensor:
        """[d]"""
        return self.total / self.count

    @property
    def covariance(self) -> Tensor:
        """[d, d], unbiased."""
        return (self.outer - torch.outer(self.total, self.total) / self.count) / (self.count - 1)


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Squared Frechet distance of two Gaussians (Heusel et al. 2017), in float64.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2)``: the symmetric form needs only eigh.
    """
    return FrechetTo(a)(b)


class FrechetTo:
    """Squared Frechet distance to one fixed Gaussian, whose square root is taken once, on ``device``."""

    def __init__(self, a: Gaussian, device: torch.device | None = None) -> None:
        self.mean, self.covariance = (x.to(device) for x in _checked(a))
        values, vectors = torch.linalg.eigh(self.covariance)
        self.root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T

    def __call__(self, b: Gaussian) -> float:
        """The distance of ``b``."""
        mean, covariance = (x.to(self.mean.device) for x in _checked(b))
        if mean.shape != self.mean.shape:
            raise Error(f"features of {len(self.mean)} and of {len(mean)} dimensions have no Frechet distance")
        cross = torch.linalg.eigvalsh(self.root @ covariance @ self.root).clamp(min=0).sqrt().sum()
        traces = self.covariance.trace() + covariance.trace()
        return ((self.mean - mean) ** 2).sum().add(traces - 2 * cross).item()


def _checked(a: Gaussian) -> tuple[Tensor, Tensor]:
    if a.count is None or a.count >= 2:
        mean, covariance = a.mean, a.covariance
        if mean.isfinite().all() and covariance.isfinite().all():
            return mean, covariance
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
    draws = (np.random.Generator(np.random.Philox(key=[seed, r])).integers(n, size=n) for r in range(replicates))
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


def _distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Rows of x, and their distances [rows, len(y)] to all of y."""
    step = max(1, BLOCK // len(y))
    for first in range(0, len(x), step):
        rows = slice(first, first + step)
        yield rows, torch.cdist(x[rows], y)


def fid_label(count: int, full: int = 50_000) -> str:
    """``FID`` at the usual sample count, ``FID@n`` below it."""
    return "FID" if count >= full else f"FID@{count}"
