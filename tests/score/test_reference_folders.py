"""Folders of references as people keep them, a cache that cannot be written, channels that do not fit."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from extractors import register
from PIL import Image
from torch import Tensor

from s4s import errors
from s4s.cli.main import _notice
from s4s.models import weights
from s4s.models.digits import Classifier
from s4s.score import protocol, reference
from s4s.score.features import Extractor, extractor
from s4s.score.reference import Source, fetch, images, statistics

SUFFIXES = ("png", "PNG", "jpg", "jpeg", "webp", "bmp", "tif", "tiff", "ppm", "pgm", "TIF")


def photo(path: Path, seed: int = 0, mode: str = "RGB") -> Path:
    """An image of noise in the format of its name."""
    random = np.random.default_rng(seed)
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(random.integers(256, size=(8, 8, 3), dtype=np.uint8)).convert(mode)
    image.save(path, **({"lossless": True} if path.suffix == ".webp" else {}))
    return path


def read(folder: Path, count: int | None = None) -> tuple[Tensor, list[str]]:
    """The images of a folder, and what is said of it."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = torch.cat(list(images(Source("folder", str(folder), count), 4)))
    return found, [str(warning.message) for warning in said]


def test_every_usual_format_counts(tmp_path: Path) -> None:
    for i, suffix in enumerate(SUFFIXES):
        photo(tmp_path / "real" / f"{i:02d}.{suffix}", i, "L" if suffix == "pgm" else "RGB")
    found, said = read(tmp_path / "real")
    assert found.shape == (len(SUFFIXES), 3, 8, 8) and said == []
    lossless = [
        i for i, suffix in enumerate(SUFFIXES) if suffix.lower() in ("png", "webp", "bmp", "tif", "tiff", "ppm")
    ]
    for i in lossless:
        plain = np.random.default_rng(i).integers(256, size=(8, 8, 3), dtype=np.uint8)
        assert np.array_equal(found[i].permute(1, 2, 0), plain), SUFFIXES[i]


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "1", "CMYK", "LA"])
def test_every_usual_kind_of_pixel_counts(tmp_path: Path, mode: str) -> None:
    suffix = {"CMYK": "tif"}.get(mode, "png")
    for i in range(2):
        photo(tmp_path / "real" / f"{i}.{suffix}", i, mode)
    assert read(tmp_path / "real")[0].shape == (2, 3, 8, 8)


def test_what_is_left_out_is_said(tmp_path: Path) -> None:
    for i in range(3):
        photo(tmp_path / "real" / f"{i}.png", i)
    for name in ("notes.txt", "Thumbs.db", "._0.png", ".DS_Store", "clip.mp4"):
        (tmp_path / "real" / name).write_text("no image")
    photo(tmp_path / "real" / "more.png" / "3.png")
    found, said = read(tmp_path / "real")
    left = "left out: 5 files that are not images and 1 folders"
    assert len(found) == 3 and said == [f"{tmp_path / 'real'}: 3 images; {left}"]
    assert _notice(errors.Notice(said[0]), errors.Notice, "", 0).count("\n") == 1


def test_a_wrong_count_is_found_before_an_image_is_read(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_text("damaged")
    for count in (2, 4):
        with pytest.raises(errors.Error, match=f"3 images, needs {count}"):
            read(tmp_path, count)
    with pytest.raises(errors.Error, match="cannot read the image"):
        read(tmp_path, 3)


def test_references_may_be_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for i in range(2):
        photo(tmp_path / "real" / f"{i}.png", i)
    np.savez(tmp_path / "ref.npz", mu=np.zeros(2), sigma=np.eye(2))
    assert len(next(images(Source("folder", "~/real"), 2))) == 2
    assert fetch(Source("npz", "~/ref.npz")) == tmp_path / "ref.npz"
    for missing in ("~/none", "~no-such-user/real"):
        with pytest.raises(errors.Error, match="no such folder of images"):
            next(images(Source("folder", missing), 2))


@pytest.fixture
def digits(tmp_path: Path) -> Extractor:
    torch.manual_seed(0)
    weights.save(Classifier(), tmp_path / "c.safetensors", made_from={})
    return extractor("digits", tmp_path / "c.safetensors", chunk=250)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, digits: Extractor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below a file nothing can be written, even by root; the numbers and their record are those of a kept file."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("S4S_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(errors.Notice, match="used without being kept") as said:
        found = statistics(Source("dataset", "digits"), digits, offline=True)
    assert len(said) == 1 and "\n" not in str(said[0].message)
    kept = statistics(Source("dataset", "digits"), digits, cache=tmp_path / "cache", offline=True)
    assert torch.equal(found.mean, kept.mean) and torch.equal(found.covariance, kept.covariance)
    assert found.record == kept.record and found.count == 1797


def test_images_of_other_channels_are_refused_by_name(digits: Extractor) -> None:
    with pytest.raises(errors.Error, match="digits takes images of 1 channel, these have 3"):
        digits(torch.zeros(2, 3, 8, 8, dtype=torch.uint8))
    for name in ("edm", "adm", "torch-fidelity", "ld3-latent"):
        for channels in (1, 2, 4):
            with pytest.raises(errors.Error, match=f"takes images of 3 channels, these have {channels}"):
                protocol.protocol(name).images(torch.zeros(2, channels, 8, 8))
    register()
    own = extractor("dummy", None, chunk=2)
    assert own(torch.zeros(2, 4, 8, 8, dtype=torch.uint8)[:, :3]).shape == (2, 6), "one of others takes what it takes"


def test_a_folder_and_an_extractor_of_other_channels(tmp_path: Path, digits: Extractor) -> None:
    for i in range(2):
        photo(tmp_path / "real" / f"{i}.png", i)
    with pytest.raises(errors.Error, match="digits takes images of 1 channel, these have 3"):
        reference.statistics(Source("folder", str(tmp_path / "real")), digits, cache=tmp_path)
