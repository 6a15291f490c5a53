"""Named protocols: everything a FID depends on besides the samples, as one record.

Papers leave most of it unsaid, and it moves the number more than many a method does: docs/protocols.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, choose, require_choice
from s4s.noise import philox
from s4s.score.features import (
    CHUNK,
    INCEPTION,
    Extractor,
    Resize,
    Weights,
    check_weights,
    extractor,
    finite,
    inception_weights,
    require_channels,
    to_uint8,
)
from s4s.score.known import PYTORCH_FID
from s4s.score.metrics import Moments, fid_label, frechet
from s4s.score.reference import Source, Statistics, statistics

CLASSES = ("none", "uniform", "random")
PIXELS = {
    "edm": "floor(127.5 x + 128)",
    "ldm": "floor(127.5 (x + 1))",
    "diffusers": "round(127.5 (x + 1))",
    "none": "float32 (x + 1) / 2",
}  # of x in [-1, 1], clamped afterwards


@dataclass(frozen=True)
class Protocol:
    """How samples become a FID.

    Args:
        name, about: what it is called, and whose it is.
        uint8: how samples in [-1, 1] become images; ``none`` leaves them floats.
        extractor, layer: a network of torch-fidelity's registry and its features.
        weights: the network's published file; None for one that the pipeline trains.
        reference: what the samples are compared with; None until one is given.
        resize: of the samples.
        samples: the number of samples; a FID of fewer is labelled with theirs.
        classes: ``uniform`` (sample i has class i mod K), ``random`` (drawn for each sample) or ``none``.
        seed, first: sample i starts from ``noise(seed, [first + i])``.
        changed: which of the above the user changed.
    """

    name: str
    about: str
    uint8: str
    extractor: str
    layer: str
    weights: Weights | None = None
    reference: Source | None = None
    resize: Resize = field(default_factory=Resize)
    samples: int = 50_000
    classes: str = "none"
    seed: int = 0
    first: int = 0
    changed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_choice("uint8 rule", self.uint8, PIXELS)
        require_choice("class plan", self.classes, CLASSES)
        if self.samples < 2 or (self.uint8 == "none" and self.resize.rule != "none"):
            raise Error(f"protocol {self.name!r}: needs at least 2 samples, and floats are not resized")

    @property
    def indices(self) -> range:
        """Indices of the samples' noises."""
        return range(self.first, self.first + self.samples)

    def labels(self, indices: Iterable[int], classes: int) -> Tensor | None:
        """Class of each sample [len(indices)], whatever the batch or shard; None for the plan ``none``."""
        if self.classes == "none":
            return None
        if self.classes == "uniform":
            return torch.tensor([i % classes for i in indices])
        random = (philox(self.seed, i, counter=[0, 0, 0, 1]) for i in indices)
        return torch.tensor([int(generator.integers(classes)) for generator in random])

    def images(self, x: Tensor) -> Tensor:
        """Samples [n, C, H, W] in [-1, 1] -> what the extractor takes."""
        require_channels(self.extractor, x.shape[1])
        if self.uint8 == "none":
            return ((finite(x) + 1) / 2).clamp(0, 1).float()
        return self.resize.batch(to_uint8(x, self.uint8).cpu())

    def build(self, weights: Path | None = None, *, offline: bool = False, chunk: int = CHUNK) -> Extractor:
        """The extractor, its published weights fetched and checked."""
        if self.weights is None:
            return extractor(self.extractor, weights, self.layer, chunk)
        path = inception_weights(weights, weights=self.weights, offline=offline)
        extract = extractor(self.extractor, path, self.layer, chunk)
        check_weights(path, extract.identity["weights_sha256"], self.weights)
        return extract

    def fid(
        self, samples: Tensor | Iterable[Tensor], weights: Path | None = None, *, offline: bool = False
    ) -> tuple[float, dict[str, Any]]:
        """FID of samples in [-1, 1], and the record that belongs beside the number.

        Args:
            samples: [n, C, H, W], or batches of them, in the order of their indices.
            weights, offline: as ``build`` takes them.

        Raises:
            Error: no reference; one that is missing or damaged, or of other features than the extractor's.
        """
        if self.reference is None:
            raise Error(f"protocol {self.name!r} has no reference; name a data set or give `reference`")
        extract = self.build(weights, offline=offline)
        found = statistics(self.reference, extract, offline=offline)
        batches = [samples] if isinstance(samples, Tensor) else samples
        taken = Moments.merge(Moments.of(extract(self.images(x))) for x in batches)
        return frechet(taken, found), self.describe(extract, found, taken.count)

    def label(self, count: int) -> str:
        """``FID``, or ``FID@count`` for fewer samples than the protocol has."""
        return fid_label(count, self.samples)

    def describe(
        self, extract: Extractor | None = None, found: Statistics | None = None, count: int | None = None
    ) -> dict[str, Any]:
        """The whole protocol, JSON-able; with what was used, also the hashes of weights and reference and the label."""
        record: dict[str, Any] = {"protocol": self.name} | asdict(self) | {"uint8_formula": PIXELS[self.uint8]}
        del record["name"]
        record |= {"weights_sha256": None, "reference_statistics": None, "changed": list(self.changed)}
        if extract is not None:
            record |= extract.identity | {"chunk": extract.chunk}
        if found is not None:
            record["reference_statistics"] = dict(found.record)
        if count is not None:
            record |= {"n_samples": count, "fid_label": self.label(count)}
        return record


_INCEPTION: dict[str, Any] = {"extractor": "inception-v3-compat", "layer": "2048", "weights": INCEPTION}
_PROTOCOLS = (
    Protocol("edm", "Karras et al. 2022 (fid.py); AMED; LD3 and GAS in pixel space", "edm", **_INCEPTION),
    Protocol("adm", "Dhariwal & Nichol 2021 (evaluator.py)", "ldm", **_INCEPTION),
    Protocol("torch-fidelity", "torch-fidelity's calculate_metrics, as for latent diffusion", "ldm", **_INCEPTION),
    Protocol("ld3-latent", "LD3 on latent models ('FID LD')", "none", **_INCEPTION | {"extractor": PYTORCH_FID}),
    Protocol("digits", "the embedded benchmark, in its own feature space", "edm", "digits", "64",
             reference=Source("dataset", "digits", 1797)),
)  # fmt: skip
PROTOCOLS = {protocol.name: protocol for protocol in _PROTOCOLS}

_EDM = "https://nvlabs-fi-cdn.nvidia.com/edm/fid-refs/"
_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/"
_BEDROOM = Source("npz", _ADM + "lsun/bedroom/VIRTUAL_lsun_bedroom256.npz")
_IMAGENET = Source("npz", _ADM + "imagenet/256/VIRTUAL_imagenet256_labeled.npz", note="2 GB; mu and sigma are used")
_COCO_NOTE = "LD3's and GAS's file: fetch Google Drive id 1hlSlPbg1ycsPq7ZnYHBooVWuIiu3mAxe by hand and give its path"
_COCO = Source("npz", "COCO_30k.npz", 30_000, note=_COCO_NOTE)
DATA: dict[str, dict[str, dict[str, Any]]] = {  # what a protocol says about each data set
    "edm": {name: {"reference": Source("npz", f"{_EDM}{file}.npz")} for name, file in (
        ("cifar10", "cifar10-32x32"), ("ffhq", "ffhq-64x64"), ("afhqv2", "afhqv2-64x64"))},
    "adm": {"lsun_bedroom": {"reference": _BEDROOM}, "imagenet256": {"reference": _IMAGENET, "classes": "random"}},
    "torch-fidelity": {"cifar10": {"reference": Source("dataset", "cifar10-train", 50_000)}},
    "ld3-latent": {
        "lsun_bedroom": {"reference": _BEDROOM},
        "imagenet256": {"reference": _IMAGENET, "classes": "uniform"},
        "mscoco": {"reference": _COCO, "samples": 30_000},
    },
    "digits": {"digits": {}},
}  # fmt: skip


def protocol(name: str, data: str | None = None, **changes: Any) -> Protocol:
    """A named protocol, for one of the data sets it has a reference for, with the user's changes on record.

    Args:
        name: ``edm``, ``adm``, ``torch-fidelity``, ``ld3-latent`` or ``digits``.
        data: a data set of ``DATA[name]``; otherwise give a ``reference``.
        changes: any field of ``Protocol``; ``reference`` also as a config writes it, ``{"kind": ..., "where": ...}``.
    """
    require_choice("protocol", name, PROTOCOLS)
    if data is not None and data not in DATA[name]:
        raise choose(f"data set of protocol {name!r}", data, DATA[name])
    allowed = {key.name for key in fields(Protocol)} - {"name", "changed"}
    if unknown := changes.keys() - allowed:
        raise choose("field of a protocol", min(unknown), allowed)
    if isinstance(changes.get("reference"), Mapping):
        changes["reference"] = Source.of(changes["reference"])
    plain = replace(PROTOCOLS[name], **DATA[name][data] if data else {})
    free = {"seed", "first"} | ({"reference"} if plain.reference is None else set())
    changed = [key for key, value in changes.items() if key not in free and value != getattr(plain, key)]
    return replace(plain, **changes, changed=tuple(sorted(changed)))
