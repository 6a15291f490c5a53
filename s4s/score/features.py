"""From samples to features: 8-bit rules, resizing, and the networks of torch-fidelity's registry, known by hash.

Weights are read as plain tensors before torch-fidelity sees them; nothing in a weights file is executed.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from s4s.download import cache_dir, download
from s4s.errors import Error, choose, extra, require_choice
from s4s.files import sha256
from s4s.models import checkpoint
from s4s.score.known import channels_of
from s4s.score.registered import OURS, UNPICKLED, registered

if TYPE_CHECKING:
    from PIL import Image

CHUNK = 250  # images per forward pass of the extractor, aligned to the sample index: features do not depend on shards
UINT8_RULES = {
    "edm": lambda x: (127.5 * x + 128).floor(),  # Karras et al. 2022; also AMED, GAS in pixel space
    "ldm": lambda x: (127.5 * (x + 1)).floor(),  # CompVis, LD3, GAS in latent space
    "diffusers": lambda x: (127.5 * (x + 1)).round(),
}


def to_uint8(x: Tensor, rule: str = "edm") -> Tensor:
    """Images [n, ...] in [-1, 1] -> uint8. The rule matters: ``ldm`` differs from ``edm`` in half of all pixels.

    Raises:
        Error: unknown rule, or NaN or infinity in an image, which would turn into a valid colour.
    """
    require_choice("uint8 rule", rule, UINT8_RULES)
    return UINT8_RULES[rule](finite(x)).clamp(0, 255).to(torch.uint8)


def require_channels(extractor: str, channels: int) -> None:
    """Raise unless an extractor takes images of so many channels."""
    if (wanted := channels_of(extractor)) not in (None, channels):
        raise Error(f"{extractor} takes images of {wanted} channel{'s' * (wanted != 1)}, these have {channels}: choose "
                    "an extractor of such images")  # fmt: skip


def finite(x: Tensor) -> Tensor:
    """``x`` [n, ...] itself, or ``Error`` with the number of the first image that holds NaN or infinity."""
    if not x.isfinite().all():
        bad = (~x.isfinite()).reshape(len(x), -1).any(1).nonzero().flatten()
        raise Error(
            f"{len(bad):,} of {len(x):,} images hold NaN or infinity, the first is number {int(bad[0]):,}: the network "
            "or the solver overflowed; look at that sample, or use dtype float32"
        )
    return x


def _torch_fidelity(image: Image.Image, size: int) -> Image.Image:
    """Smaller side to ``size`` (bilinear, antialiased), then the centre: torch-fidelity's samples_resize_and_crop."""
    with extra("benchmark"):
        from torchvision.transforms.v2.functional import center_crop, resize

    return center_crop(resize(image, [size]), [size, size])


def _adm(image: Image.Image, size: int) -> Image.Image:
    """Halved by box means while twice too large, smaller side to ``size`` (bicubic), then the centre: ADM's rule."""
    with extra("benchmark"):
        from PIL import Image

    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    return image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + size, top + size))


Rule = Callable[["Image.Image", int], "Image.Image"]
RESIZE_RULES: dict[str, Rule] = {"none": lambda image, _: image, "torch-fidelity": _torch_fidelity, "adm": _adm}


@dataclass(frozen=True)
class Resize:
    """How an image gets its size before the extractor, which has a resize of its own to 299 pixels."""

    rule: str = "none"
    size: int | None = None

    def __post_init__(self) -> None:
        require_choice("resize rule", self.rule, RESIZE_RULES)
        if (self.rule == "none") != (self.size is None) or (self.size is not None and self.size < 1):
            raise Error(f"resize rule {self.rule!r} with size {self.size}: every rule but 'none' needs a positive size")

    def __call__(self, image: Image.Image) -> Image.Image:
        """The resized image."""
        return RESIZE_RULES[self.rule](image, self.size or 0)

    def batch(self, images: Tensor) -> Tensor:
        """uint8 images [n, 3, H, W], each resized."""
        if self.rule == "none":
            return images
        with extra("benchmark"):
            from PIL import Image

        return torch.stack([pixels(self(Image.fromarray(image.permute(1, 2, 0).numpy()))) for image in images])


def opened(path: Path) -> Image.Image:
    """An image file as RGB of 8 bits; ``Error`` in one line where it is none."""
    with extra("benchmark"):
        from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                raise Error(f"{path}: an image of more than 8 bits a channel ({image.mode})")
            return image.convert("RGB")
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise Error(f"{path}: cannot read the image ({error})") from error


def pixels(image: Image.Image) -> Tensor:
    """An RGB image as uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@dataclass(frozen=True)
class Extractor:
    """A feature extractor and what identifies it.

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
        require_channels(self.identity["extractor"], images.shape[1])
        device = next(self.network.parameters(), images).device
        with torch.no_grad():
            rows = [self.network(chunk.to(device))[0].to(images.device) for chunk in _chunks(images, self.chunk)]
        return torch.cat(rows)[: len(images)].double()


def extractor(name: str, weights: Path | None = None, layer: str | None = None, chunk: int = CHUNK) -> Extractor:
    """Build a registered extractor: ``digits``, torch-fidelity's from a file of ``weights``, or one you registered.

    Weights that torch-fidelity would unpickle are read here, as plain tensors; it gets those and never sees the file.
    """
    layer, made = check_extractor(name, weights, layer)
    source, digest = open_weights(name, weights)
    try:
        network = made(name, [layer], feature_extractor_weights_path=source, verbose=False).requires_grad_(False).eval()
    except RuntimeError as error:  # tensors of another network
        raise Error(f"{weights or name}: not weights of {name!r} ({str(error).splitlines()[0][:200]})") from error
    identity = {"extractor": name, "layer": layer, "weights_sha256": digest}
    network = network.cuda() if torch.cuda.is_available() else network
    return Extractor(network, layer, identity, getattr(network, "image_dtype", torch.uint8), chunk)


def check_extractor(name: str, weights: object, layer: str | None = None) -> tuple[str, Any]:
    """The layer of an extractor, by default the registry's, and its class, before anything is read or built.

    Raises:
        Error: unknown name or layer, no ``weights`` where a file is needed, or a loader that runs code from elsewhere.
    """
    registry = OURS if name in OURS else registered()
    theirs = {key for key, made in registry.items() if made.__module__.startswith("torch_fidelity.")}
    usable = registry.keys() - (theirs - set(UNPICKLED))
    if name in registry and name not in usable:
        raise Error(
            f"feature extractor {name!r}: torch-fidelity's loader of it executes code that it fetches; s4s reads"
            f" weights as data only. Choose one of: {', '.join(sorted(usable))}, or register your own"
        )
    require_choice("feature extractor", name, usable)
    if name in UNPICKLED and weights is None:
        how = "`s4s download CONFIG` fetches them" if name.startswith("inception") else "give their file"
        raise Error(f"the feature extractor {name!r} needs its weights; {how}")
    layers = registry[name].get_provided_features_list()
    if layer is not None and layer not in layers:
        raise choose(f"layer of the feature extractor {name!r}", layer, layers)
    made = registry[name]
    return layer or str(made.get_default_feature_layer_for_metric("fid")), made


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
    if path is None:
        return None, None
    if name in UNPICKLED:
        return plain_weights(path)
    try:
        return str(path), sha256(path)
    except OSError as error:
        raise Error(f"{path}: cannot read the weights ({error.strerror or error})") from error


def plain_weights(path: Path) -> tuple[io.BytesIO, str]:
    """A state dict, written anew from the plain tensors of a file, and the file's SHA-256. No code in it is run."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Error(f"{path}: cannot read the weights ({error.strerror or error})") from error
    state = checkpoint.load(path, io.BytesIO(data), len(data))
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


def _chunks(images: Tensor, size: int) -> Iterable[Tensor]:
    """Chunks of one fixed size, the last filled up with blanks: every image meets the same arithmetic."""
    for chunk in images.split(size):
        missing = size - len(chunk)
        yield torch.cat([chunk, chunk.new_zeros(missing, *chunk.shape[1:])]) if missing else chunk
