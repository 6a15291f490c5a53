"""Frechet distance on torch-fidelity's features, with our own float64 statistics."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.files import sha256

CHUNK = 250  # images per forward pass of the extractor, aligned to the sample index: features do not depend on shards

UINT8_RULES = {
    "edm": lambda x: (127.5 * x + 128).floor(),  # Karras et al. 2022; also AMED, GAS in pixel space
    "ldm": lambda x: (127.5 * (x + 1)).floor(),  # CompVis, LD3, GAS in latent space
    "diffusers": lambda x: (127.5 * (x + 1)).round(),
}


def to_uint8(x: Tensor, rule: str = "edm") -> Tensor:
    """Images in [-1, 1] -> uint8. The rule matters: ``ldm`` differs from ``edm`` in half of all pixels."""
    return UINT8_RULES[rule](x).clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Extractor:
    """A feature extractor from torch-fidelity's registry, and what identifies it."""

    network: torch.nn.Module
    layer: str
    identity: dict[str, Any]

    def __call__(self, images: Tensor) -> Tensor:
        """uint8 images [n, C, H, W] -> features [n, d] float64."""
        if images.dtype != torch.uint8:
            raise Error(f"features are taken from uint8 images, got {images.dtype}")
        with torch.no_grad():
            rows = [self.network(chunk)[0] for chunk in _chunks(images)]
        return torch.cat(rows)[: len(images)].double()


def extractor(name: str, weights: Path | None = None, layer: str | None = None) -> Extractor:
    """Build an extractor of torch-fidelity's registry, or ``digits``, which needs ``weights``."""
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY as registry
    from torch_fidelity.utils import create_feature_extractor

    _register_digits()
    if name not in registry:
        raise Error(f"unknown feature extractor {name!r}; choose one of: {', '.join(sorted(registry))}")
    layer = layer or str(registry[name].get_default_feature_layer_for_metric("fid"))
    options = {"feature_extractor_weights_path": str(weights) if weights else None, "verbose": False}
    network = create_feature_extractor(name, [layer], cuda=torch.cuda.is_available(), **options)
    identity = {"extractor": name, "layer": layer, "weights_sha256": sha256(weights) if weights else None}
    return Extractor(network, layer, identity)


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


def frechet(a: Moments, b: Moments) -> float:
    """Squared Frechet distance of two Gaussians (Heusel et al. 2017), in float64.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2)``: the symmetric form needs only eigh.
    """
    for moments in (a, b):
        if moments.count < 2 or not moments.outer.isfinite().all():
            raise Error("a Frechet distance needs at least two samples with finite features")
    values, vectors = torch.linalg.eigh(a.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b.covariance @ root).clamp(min=0).sqrt().sum()
    return ((a.mean - b.mean) ** 2).sum().add(a.covariance.trace() + b.covariance.trace() - 2 * cross).item()


def fid_label(count: int, full: int = 50_000) -> str:
    """``FID`` at the usual sample count, ``FID@n`` below it."""
    return "FID" if count >= full else f"FID@{count}"


def _chunks(images: Tensor) -> Iterable[Tensor]:
    """Chunks of one fixed size, the last filled up with blanks: every image meets the same arithmetic."""
    for chunk in images.split(CHUNK):
        missing = CHUNK - len(chunk)
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

        @staticmethod
        def can_be_compiled() -> bool:
            return True

        @staticmethod
        def get_dummy_input_for_compile() -> Tensor:
            return torch.zeros(1, 1, 8, 8, dtype=torch.uint8)

        def forward(self, images: Tensor) -> tuple[Tensor]:
            return (self.classifier.features(images.float() / 127.5 - 1),)

    register_feature_extractor("digits", DigitsExtractor)
