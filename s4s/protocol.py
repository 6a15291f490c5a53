"""Named protocols: everything a FID depends on besides the samples, as one record.

Papers leave most of it unsaid, and it moves the number more than many a method does: docs/protocols.md.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from s4s.errors import Error, choose
from s4s.files import sha256
from s4s.metrics import CHUNK, Extractor, extractor, fid_label, to_uint8
from s4s.models.download import cache_dir, download
from s4s.reference import UNREADABLE, Resize, Source, Statistics

PYTORCH_FID = "inception-v3-pytorch-fid"
UNPICKLED = ("inception-v3-compat", PYTORCH_FID, "vgg16")  # torch-fidelity reads their weights as a pickle
CLASSES = ("none", "uniform", "random")
PIXELS = {
    "edm": "floor(127.5 x + 128)",
    "ldm": "floor(127.5 (x + 1))",
    "diffusers": "round(127.5 (x + 1))",
    "none": "float32 (x + 1) / 2",
}  # of x in [-1, 1], clamped afterwards


@dataclass(frozen=True)
class Weights:
    """A published weights file. ``sha256_prefix`` is the part of its hash that is known, or all of it."""

    file: str
    url: str
    sha256_prefix: str
    licence: str


INCEPTION = Weights(
    file="weights-inception-2015-12-05-6726825d.pth",
    url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
    sha256_prefix="6726825d",  # by the file's own name
    licence="Apache-2.0",
)


def inception_weights(path: Path | None = None, *, weights: Weights = INCEPTION, offline: bool = False) -> Path:
    """The Inception weights of torch-fidelity and pytorch-fid, fetched unless they are there, and checked.

    Raises:
        Error: not there and not to be had, with the address, the place to put it and its hash; or another file.
    """
    path = path or cache_dir() / weights.file
    try:
        download(weights.url, path, None, licence=weights.licence, offline=offline)
    except Error as error:
        raise Error(f"{error} (SHA-256 begins with {weights.sha256_prefix})") from error
    check_weights(path, sha256(path), weights)
    return path


def check_weights(path: Path | str, digest: str | None, weights: Weights) -> None:
    """Raise unless a file's SHA-256 is the expected one, as far as it is known."""
    if not (digest or "").startswith(weights.sha256_prefix):
        raise Error(f"{path}: has SHA-256 {digest}, which should begin with {weights.sha256_prefix}; remove the file")


def open_weights(name: str, path: Path | None) -> tuple[Any, str | None]:
    """What torch-fidelity may read the weights of an extractor from, and their SHA-256."""
    if path is not None:
        return plain_weights(path) if name in UNPICKLED else (str(path), sha256(path))
    if name.startswith("inception-v3"):
        raise Error(f"the feature extractor {name!r} needs its weights; s4s.protocol.inception_weights() fetches them")
    return None, None


def plain_weights(path: Path) -> tuple[io.BytesIO, str]:
    """A state dict, written anew from the plain tensors of a file, and the file's SHA-256. No code in it is run."""
    try:
        data = path.read_bytes()
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except OSError as error:
        raise Error(f"{path}: cannot read the weights ({error.strerror or error})") from error
    except (*UNREADABLE, AttributeError, pickle.UnpicklingError) as error:
        raise Error(f"{path}: refused, not a plain file of tensors ({error!r:.200})") from error
    if not isinstance(state, dict) or not all(_is_plain(value, len(data)) for value in state.values()):
        raise Error(f"{path}: refused, not a plain file of tensors by name")
    for name, value in state.items():
        if not value.isfinite().all():
            raise Error(f"{path}: refused, {name!r} holds NaN or infinity")
    torch.save(dict(state), buffer := io.BytesIO())
    buffer.seek(0)
    return buffer, hashlib.sha256(data).hexdigest()


def _is_plain(value: object, size: int) -> bool:
    """A dense tensor no larger than the file: not sparse, not quantised, not one number repeated a billion times."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_quantized or not value.is_cpu:
        return False
    return value.numel() * value.element_size() <= size


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
        if self.uint8 not in PIXELS:
            raise choose("uint8 rule", self.uint8, PIXELS)
        if self.classes not in CLASSES:
            raise choose("class plan", self.classes, CLASSES)
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
        random = (np.random.Generator(np.random.Philox(key=[self.seed, i], counter=[0, 0, 0, 1])) for i in indices)
        return torch.tensor([int(generator.integers(classes)) for generator in random])

    def images(self, x: Tensor) -> Tensor:
        """Samples [n, C, H, W] in [-1, 1] -> what the extractor takes."""
        if self.uint8 == "none":
            return ((x + 1) / 2).clamp(0, 1).float()
        return self.resize.batch(to_uint8(x, self.uint8).cpu())

    def build(self, weights: Path | None = None, *, offline: bool = False, chunk: int = CHUNK) -> Extractor:
        """The extractor, its published weights fetched and checked."""
        _register_pytorch_fid()
        if self.weights is None:
            return extractor(self.extractor, weights, self.layer, chunk)
        path = inception_weights(weights, weights=self.weights, offline=offline)
        extract = extractor(self.extractor, path, self.layer, chunk)
        check_weights(path, extract.identity["weights_sha256"], self.weights)
        return extract

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
        changes: any field of ``Protocol``.
    """
    if name not in PROTOCOLS:
        raise choose("protocol", name, PROTOCOLS)
    if data is not None and data not in DATA[name]:
        raise choose(f"data set of protocol {name!r}", data, DATA[name])
    allowed = {key.name for key in fields(Protocol)} - {"name", "changed"}
    if unknown := changes.keys() - allowed:
        raise choose("field of a protocol", min(unknown), allowed)
    plain = replace(PROTOCOLS[name], **DATA[name][data] if data else {})
    free = {"seed", "first"} | ({"reference"} if plain.reference is None else set())
    changed = [key for key, value in changes.items() if key not in free and value != getattr(plain, key)]
    return replace(plain, **changes, changed=tuple(sorted(changed)))


def _register_pytorch_fid() -> None:
    """torch-fidelity's Inception fed as pytorch-fid does: float images in [0, 1], half-pixel bilinear, 2x - 1."""
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

    if PYTORCH_FID in FEATURE_EXTRACTORS_REGISTRY:
        return
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class PytorchFid(FeatureExtractorInceptionV3):  # type: ignore[misc]
        image_dtype = torch.float32

        @staticmethod
        def get_provided_features_list() -> tuple[str, ...]:
            return ("2048",)

        def forward(self, images: Tensor) -> tuple[Tensor]:
            x = 2 * F.interpolate(images, (299, 299), mode="bilinear", align_corners=False) - 1
            for name, layer in self.named_children():
                x = x if name == "fc" else layer(x)
            return (x.flatten(1),)

    register_feature_extractor(PYTORCH_FID, PytorchFid)
