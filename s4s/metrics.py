"""FID, KID, precision and recall on torch-fidelity's features, with our own float64 arithmetic.

Everything after the features works on tensors [n, d] float64 in memory, on their device, in chunks of bounded size.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from s4s.errors import Error, choose

CHUNK = 250  # images per forward pass of the extractor, aligned to the sample index: features do not depend on shards
BLOCK = 1 << 24  # float64 values held at a time in pairwise distances and weighted sums: 128 MiB

UINT8_RULES = {
    "edm": lambda x: (127.5 * x + 128).floor(),  # Karras et al. 2022; also AMED, GAS in pixel space
    "ldm": lambda x: (127.5 * (x + 1)).floor(),  # CompVis, LD3, GAS in latent space
    "diffusers": lambda x: (127.5 * (x + 1)).round(),
}


def to_uint8(x: Tensor, rule: str = "edm") -> Tensor:
    """Images in [-1, 1] -> uint8. The rule matters: ``ldm`` differs from ``edm`` in half of all pixels."""
    if rule not in UINT8_RULES:
        raise choose("uint8 rule", rule, UINT8_RULES)
    return UINT8_RULES[rule](x).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Extractor:
    """A feature extractor from torch-fidelity's registry, and what identifies it.

    Args:
        network: on its device; images are moved there, features come back.
        layer: the features' name.
        identity: JSON-able: name, layer, SHA-256 of the weights.
        dtype: of the images it takes: uint8, or float32 in [0, 1].
        chunk: images per forward pass; float32 features change in the 8th digit with it.
    """

    network: torch.nn.Module
    layer: str
    identity: dict[str, Any]
    dtype: torch.dtype = torch.uint8
    chunk: int = CHUNK

    def __call__(self, images: Tensor) -> Tensor:
        """Images [n, C, H, W] of ``dtype`` -> features [n, d] float64."""
        if images.dtype != self.dtype:
            raise Error(f"features are taken from {str(self.dtype)[6:]} images, got {images.dtype}")
        device = next(self.network.parameters(), images).device
        with torch.no_grad():
            rows = [self.network(chunk.to(device))[0].to(images.device) for chunk in _chunks(images, self.chunk)]
        return torch.cat(rows)[: len(images)].double()


def extractor(name: str, weights: Path | None = None, layer: str | None = None, chunk: int = CHUNK) -> Extractor:
    """Build a registered extractor: ``digits`` or an Inception (these need ``weights``), or any of torch-fidelity's.

    Weights that torch-fidelity would unpickle are read here, as plain tensors; it gets those and never sees the file.
    """
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY as registry
    from torch_fidelity.utils import create_feature_extractor

    from s4s.protocol import open_weights

    _register_digits()
    if name not in registry:
        raise choose("feature extractor", name, registry)
    source, digest = open_weights(name, weights)
    layer = layer or str(registry[name].get_default_feature_layer_for_metric("fid"))
    options = {"feature_extractor_weights_path": source, "verbose": False}
    try:
        network = create_feature_extractor(name, [layer], cuda=torch.cuda.is_available(), **options)
    except RuntimeError as error:  # tensors of another network
        raise Error(f"{weights or name}: not weights of {name!r} ({str(error).splitlines()[0][:200]})") from error
    identity = {"extractor": name, "layer": layer, "weights_sha256": digest}
    return Extractor(network, layer, identity, getattr(network, "image_dtype", torch.uint8), chunk)


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


def _chunks(images: Tensor, size: int) -> Iterable[Tensor]:
    """Chunks of one fixed size, the last filled up with blanks: every image meets the same arithmetic."""
    for chunk in images.split(size):
        missing = size - len(chunk)
        yield torch.cat([chunk, chunk.new_zeros(missing, *chunk.shape[1:])]) if missing else chunk


def _register_digits() -> None:
    """Register the digits classifier with torch-fidelity, once a process."""
    from torch_fidelity.feature_extractor_base import FeatureExtractorBase
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    from s4s.models.digits import Classifier
    from s4s.models.weights import load

    if "digits" in FEATURE_EXTRACTORS_REGISTRY:
        return

    class DigitsExtractor(FeatureExtractorBase):  # type: ignore[misc]
        def __init__(
            self, name: str, features_list: list[str], feature_extractor_weights_path: str | None = None, **_: Any
        ):
            super().__init__(name, features_list)
            if feature_extractor_weights_path is None:
                raise Error("the feature extractor 'digits' needs the weights that `s4s train` wrote")
            self.classifier = load(Path(feature_extractor_weights_path), Classifier)

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("64",)

        @staticmethod
        def get_default_feature_layer_for_metric(metric: str) -> str:
            return "64"

        def forward(self, images: Tensor) -> tuple[Tensor]:
            return (self.classifier.features(images.float() / 127.5 - 1),)

    register_feature_extractor("digits", DigitsExtractor)
