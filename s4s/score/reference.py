"""Reference statistics: what a FID compares with, from a file, a folder of images or a data set.

Computed ones are kept in files named by a hash of all they depend on: the images, the resize rule, the extractor and
its weights. A name alone never finds them, so a changed folder or network never meets old numbers.
"""

from __future__ import annotations

import hashlib
import json
import struct
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4s.download import cache_dir, download, parse_sha256
from s4s.errors import Error, Notice, choose, extra, require_choice
from s4s.files import at_home, replacing
from s4s.models.digits import digits
from s4s.score.features import Extractor, Resize, opened, pixels, to_uint8
from s4s.score.metrics import Moments

FORMAT, MAX_DIMENSION = 1, 8192
IMAGES = frozenset({".bmp", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"})
UNREADABLE = (OSError, EOFError, LookupError, TypeError, ValueError, RuntimeError, struct.error, zlib.error)


@dataclass(frozen=True)
class Source:
    """Where reference statistics come from.

    Args:
        kind: ``npz`` (of mu and sigma), ``folder`` (of images, subfolders not) or ``dataset`` (of torch-fidelity).
        where: path or URL of the file, path of the folder, name of the data set.
        count: how many images are behind it; checked where it can be, None if unknown.
        sha256: of the npz file, checked before it is opened; None accepts any and records it.
        resize: of the images of a folder.
        note: what a reader should know.
    """

    kind: str
    where: str
    count: int | None = None
    sha256: str | None = None
    resize: Resize = field(default_factory=Resize)
    note: str = ""

    def __post_init__(self) -> None:
        require_choice("kind of reference", self.kind, ("npz", "folder", "dataset"))
        if self.sha256 is not None:
            object.__setattr__(self, "sha256", parse_sha256(self.sha256))
        if self.kind != "folder" and self.resize.rule != "none":
            raise Error(f"{self.where}: only a folder of images is resized, not a reference of kind {self.kind!r}")

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> Source:
        """A source as a config writes it, ``resize`` by its rule and size."""
        if unknown := spec.keys() - cls.__dataclass_fields__.keys():
            raise choose("field of a reference", min(unknown), cls.__dataclass_fields__)
        return cls(**dict(spec) | ({"resize": Resize(**spec["resize"])} if "resize" in spec else {}))


@dataclass(frozen=True)
class Statistics:
    """Mean [d] and covariance [d, d] of reference features, float64, and where they come from (JSON-able)."""

    mean: Tensor
    covariance: Tensor
    count: int | None
    record: Mapping[str, Any]

    @property
    def shift(self) -> Tensor:
        """[d] what ``Gaussian`` takes the mean from."""
        return self.mean

    @property
    def offset(self) -> Tensor:
        """[d] 0: a file holds the mean itself."""
        return torch.zeros_like(self.mean)


def statistics(source: Source, extract: Extractor, *, cache: Path | None = None, offline: bool = False) -> Statistics:
    """Reference statistics in the feature space of ``extract``.

    Args:
        source: where they come from.
        extract: not used for ``npz``, whose features were taken elsewhere.
        cache: folder for downloads and computed statistics; None is ``references`` in the download cache.
        offline: never touch the network.
    """
    if source.kind == "npz":
        return load_npz(fetch(source, cache, offline=offline), source.sha256, source.count)
    cache, record = cache or store(), _record(source, extract, offline)
    if record["weights_sha256"] is None:  # code under this name may change: nothing to find the numbers by later
        return _compute(source, extract, offline, record)
    key = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    path = cache / f"{source.kind}-{key}.npz"
    if not path.exists():
        return _kept(_compute(source, extract, offline, record), path)
    found = load_npz(path)
    if found.record["made_from"] != record:
        raise Error(f"{path}: these statistics are of something else than their name says; remove the file")
    return found


def store() -> Path:
    """Where downloads and computed statistics are kept: in the download cache."""
    return cache_dir() / "references"


def features(source: Source, extract: Extractor, *, offline: bool = False) -> Tensor:
    """Features [n, d] of a folder or data set, for KID, precision and recall."""
    return torch.cat([extract(as_dtype(batch, extract.dtype)) for batch in images(source, extract.chunk, offline)])


def images(source: Source, chunk: int, offline: bool = False) -> Iterator[Tensor]:
    """The reference images, uint8 [n, C, H, W], ``chunk`` at a time, in their order."""
    if source.kind == "npz":
        raise Error(f"{source.where}: statistics, no images: KID, precision and recall need a folder or data set")
    items = _folder_images(source) if source.kind == "folder" else _dataset_images(source, offline)
    batch: list[Tensor] = []
    total = 0
    for total, (name, image) in enumerate(items, 1):  # noqa: B007
        if batch and image.shape != batch[0].shape:
            raise Error(f"{name}: {list(image.shape)} among images of {list(batch[0].shape)}; set a resize rule")
        batch.append(image)
        if len(batch) == chunk:
            yield torch.stack(batch)
            batch = batch[:0]
    yield from [torch.stack(batch)] if batch else []
    _require_count(source, total)


def _require_count(source: Source, count: int) -> None:
    if count < 2 or count != (source.count or count):
        raise Error(f"{source.where}: {count:,} images, needs {source.count or 'at least 2'}")


def save(found: Statistics, path: Path) -> Statistics:
    """Write ``mu``, ``sigma``, ``count`` and the record to an npz file, whole or not at all, and read it back."""
    mu, sigma = found.mean.cpu().numpy(), found.covariance.cpu().numpy()
    text = json.dumps({"format": FORMAT, "made_from": found.record})
    with replacing(path) as temporary:
        np.savez(temporary, mu=mu, sigma=sigma, count=np.int64(found.count or 0), record=np.array(text))
    return load_npz(path)


def _kept(found: Statistics, path: Path) -> Statistics:
    """As ``save``; where the cache cannot be written, as one mounted read-only, the same without keeping it there."""
    try:
        return save(found, path)
    except Error as error:
        warnings.warn(Notice(f"{error}: the statistics of the reference are used without being kept"), stacklevel=1)
    with tempfile.TemporaryDirectory() as folder:
        return save(found, Path(folder) / path.name)


def load_npz(path: Path, sha256: str | None = None, count: int | None = None) -> Statistics:
    """Read ``mu`` [d] and ``sigma`` [d, d]; other arrays in the file are not touched, and nothing is unpickled.

    Raises:
        Error: wrong SHA-256 (checked before the file is opened as npz); missing, damaged or impossible numbers.
    """
    try:
        with path.open("rb") as file:
            actual = hashlib.file_digest(file, "sha256").hexdigest()
            if sha256 is not None and actual != sha256.lower():
                raise Error(f"{path}: has SHA-256 {actual}, not {sha256.lower()}; remove the file to fetch it again")
            with zipfile.ZipFile(file) as archive:
                mu, sigma = _array(archive, "mu", 1), _array(archive, "sigma", 2)
                ours = dict(json.loads(str(_array(archive, "record", 0)))) if "record.npy" in archive.namelist() else {}
                count = int(_array(archive, "count", 0)) or None if ours else count
    except Error:
        raise
    except (*UNREADABLE, zipfile.BadZipFile) as error:
        raise Error(f"{path}: cannot read the reference statistics ({error!r:.200})") from error
    record = {"kind": "npz", "file": path.name, "sha256": actual, "count": count, "made_from": ours.get("made_from")}
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    _check(path, mu, sigma)
    return Statistics(torch.from_numpy(mu), torch.from_numpy(sigma), count, record)


def _array(archive: zipfile.ZipFile, name: str, dimensions: int) -> np.ndarray[Any, Any]:
    """One array of an npz file, its header checked before anything is allocated."""
    with archive.open(f"{name}.npy") as file:
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[np.lib.format.read_magic(file)](file)
    allowed = {"count": "i", "record": "U"}.get(name, "f")
    large = max(shape, default=0) > MAX_DIMENSION or dtype.itemsize > 1 << 20
    if large or len(shape) != dimensions or dtype.kind != allowed:
        raise ValueError(f"{name!r} has shape {list(shape)} and type {dtype}")
    with archive.open(f"{name}.npy") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _check(path: Path, mu: np.ndarray[Any, Any], sigma: np.ndarray[Any, Any]) -> None:
    if sigma.shape != (len(mu), len(mu)) or not len(mu):
        raise Error(f"{path}: 'mu' has shape {list(mu.shape)} and 'sigma' {list(sigma.shape)}: not [d] and [d, d]")
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise Error(f"{path}: the reference statistics hold NaN or infinity")
    scale = np.abs(sigma).max()
    if np.abs(sigma - sigma.T).max() > 1e-6 * scale or np.diagonal(sigma).min() < -1e-9 * scale:
        raise Error(f"{path}: 'sigma' is not symmetric with a diagonal that is not negative: not a covariance")


def fetch(source: Source, cache: Path | None = None, *, offline: bool = False) -> Path:
    """The npz file of a source: local, or fetched into ``cache`` (see ``statistics``) unless it is there."""
    if source.where.startswith(("https://", "http://")):
        place = hashlib.sha256(source.where.encode()).hexdigest()[:8]  # two addresses may end in one name
        cache = cache or store()
        return download(source.where, cache / place / source.where.rsplit("/", 1)[-1], source.sha256, offline=offline)
    if (path := at_home(source.where)).is_file():
        return path
    raise Error(f"{source.where}: no such file of reference statistics. {source.note}".rstrip(". "))


def _compute(source: Source, extract: Extractor, offline: bool, record: Mapping[str, Any]) -> Statistics:
    moments: Moments | None = None
    for batch in images(source, extract.chunk, offline):
        part = Moments.of(extract(as_dtype(batch, extract.dtype)))
        moments = part if moments is None else Moments.merge((moments, part))
    assert moments is not None  # images() has raised
    return Statistics(moments.mean, moments.covariance, moments.count, record)


def _record(source: Source, extract: Extractor, offline: bool) -> dict[str, Any]:
    """Everything computed statistics depend on, with a hash of the images as the extractor gets them."""
    content = hashlib.sha256()
    for batch in images(source, extract.chunk, offline):
        for image in batch:
            content.update(json.dumps(list(image.shape)).encode() + image.numpy().tobytes())
    code = {"format": FORMAT, "torch_fidelity": version("torch-fidelity"), "chunk": extract.chunk}
    images_of = {"kind": source.kind, "images_sha256": content.hexdigest(), "resize": asdict(source.resize)}
    return images_of | extract.identity | code


def as_dtype(images: Tensor, dtype: torch.dtype) -> Tensor:
    """uint8 images as an extractor takes them: as they are, or float32 in [0, 1]."""
    return images if dtype == torch.uint8 else images.float() / 255


def _folder_images(source: Source) -> Iterator[tuple[str, Tensor]]:
    """Images of a folder, sorted by name."""
    folder = at_home(source.where)
    if not folder.is_dir():
        raise Error(f"{folder}: no such folder of images")
    paths = sorted(folder.iterdir())
    found = [path for path in paths if path.suffix.lower() in IMAGES and path.name[0] != "." and not path.is_dir()]
    if others := len(paths) - len(found):
        folders = sum(path.is_dir() for path in paths)
        left = f"{others - folders:,} files that are not images and {folders:,} folders"
        warnings.warn(Notice(f"{folder}: {len(found):,} images; left out: {left}"), stacklevel=1)
    _require_count(source, len(found))
    for path in found:
        yield str(path), pixels(source.resize(opened(path)))


def _dataset_images(source: Source, offline: bool) -> Iterator[tuple[str, Tensor]]:
    """Images of the digits, or of a data set registered with torch-fidelity."""
    dataset = to_uint8(digits()[0], "edm") if source.where == "digits" else _registered(source.where, offline)
    for index in range(len(dataset)):
        image = dataset[index]
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or image.ndim != 3:
            raise Error(f"data set {source.where!r}: item {index} is not a uint8 tensor [C, H, W]")
        yield f"{source.where}[{index}]", image


def _registered(name: str, offline: bool) -> Any:
    """A data set of torch-fidelity's registry."""
    with extra("benchmark"):
        from torch_fidelity.registry import DATASETS_REGISTRY as registry

    if name not in registry:
        raise choose("data set", name, {*registry, "digits"})
    root = cache_dir() / "datasets"
    try:
        with suppress(OSError):  # a cache that cannot be written may hold the data set, or it may need no files
            root.mkdir(parents=True, exist_ok=True)
        return registry[name](str(root), not offline)
    except (OSError, RuntimeError) as error:
        raise Error(f"data set {name!r}: cannot get it into {root} ({error})") from error
