"""Reference statistics from files, folders and data sets, on small files and a dummy extractor; no network."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extractors import register
from hostile import Gadget, one_line
from PIL import Image
from torch_fidelity import registry

import s4s
from s4s.files import sha256
from s4s.score import protocol, reference
from s4s.score.features import Extractor, Resize, extractor, pixels
from s4s.score.metrics import Moments, frechet
from s4s.score.reference import Source, load_npz, statistics


@pytest.fixture
def dummy(tmp_path: Path) -> Extractor:
    register()
    torch.save({"matrix": torch.eye(6)}, tmp_path / "dummy.pth")
    return extractor("dummy", tmp_path / "dummy.pth", chunk=4)


def photos(folder: Path, n: int = 10, size: tuple[int, int] = (12, 8), seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(n):
        pixels = random.integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n - i:03d}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def test_source_and_resize_refusals() -> None:
    with pytest.raises(s4s.Error, match="unknown kind of reference 'zip'; choose one of: dataset, folder, npz"):
        Source("zip", "x")
    with pytest.raises(s4s.Error, match="unknown resize rule 'clean'; choose one of: adm, none, torch-fidelity"):
        Resize("clean", 8)
    for rule, size in (("none", 8), ("adm", None), ("adm", 0)):
        with pytest.raises(s4s.Error, match="needs a positive size"):
            Resize(rule, size)
    with pytest.raises(s4s.Error, match="is not a SHA-256"):
        Source("npz", "x", sha256="123")
    with pytest.raises(s4s.Error, match="only a folder of images is resized"):
        Source("npz", "x", resize=Resize("adm", 8))


def write_npz(path: Path, **changes: Any) -> Path:
    root = np.random.default_rng(0).normal(size=(20, 5))
    np.savez(path, **{"mu": root.mean(0), "sigma": np.cov(root.T), "mu_s": np.zeros(3)} | changes)
    return path


def test_npz_of_edm_and_adm(tmp_path: Path, dummy: Extractor) -> None:
    path = write_npz(tmp_path / "ref.npz", arr_0=np.array([Gadget()]))  # arrays that are not asked for stay closed
    found = statistics(Source("npz", str(path), 20, sha256(path).upper()), dummy)
    assert found.count == 20 and found.record["sha256"] == sha256(path)
    root = torch.from_numpy(np.random.default_rng(0).normal(size=(20, 5)))
    assert frechet(found, Moments.of(root)) == pytest.approx(0, abs=1e-12)
    single = load_npz(write_npz(tmp_path / "float.npz", mu=found.mean.numpy().astype(np.float32)))
    assert single.mean.dtype == torch.float64 and torch.allclose(single.mean, found.mean)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mu": np.array([Gadget()])}, "'mu' has shape"),
        ({"sigma": np.zeros((5, 4))}, r"not \[d\] and \[d, d\]"),
        ({"sigma": np.zeros(5)}, "'sigma' has shape"),
        ({"mu": np.zeros(4)}, r"not \[d\] and \[d, d\]"),
        ({"mu": np.zeros(5, complex)}, "'mu' has shape"),
        ({"mu": np.full(5, np.nan)}, "NaN or infinity"),
        ({"sigma": np.full((5, 5), np.inf)}, "NaN or infinity"),
        ({"sigma": np.triu(np.ones((5, 5)))}, "not a covariance"),
        ({"sigma": -np.eye(5)}, "not a covariance"),
        ({"mu": np.zeros(0), "sigma": np.zeros((0, 0))}, r"not \[d\] and \[d, d\]"),
        ({"record": np.array("[" * 5000)}, "cannot read the reference statistics"),
        ({"record": np.array("3")}, "cannot read the reference statistics"),
    ],
)
def test_hostile_npz(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(s4s.Error, match=message) as caught:
        load_npz(write_npz(tmp_path / "ref.npz", **changes))
    one_line(caught)


def test_truncated_and_lying_npz(tmp_path: Path) -> None:
    path = write_npz(tmp_path / "ref.npz")
    whole = path.read_bytes()
    for tenth in range(10):
        path.write_bytes(whole[: len(whole) * tenth // 10])
        with pytest.raises(s4s.Error, match="cannot read the reference statistics"):
            load_npz(path)
    with pytest.raises(s4s.Error, match=r"has SHA-256 \w{64}, not 0{64}"):
        load_npz(path, "0" * 64)
    for shape in ((1 << 40,), (8192,)):
        with zipfile.ZipFile(path, "w") as archive, archive.open("mu.npy", "w") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": shape})
        with pytest.raises(s4s.Error, match="cannot read the reference statistics") as caught:
            load_npz(path)
        one_line(caught)


def test_npz_that_is_not_there(tmp_path: Path, dummy: Extractor, cache: Path) -> None:
    edm = protocol.protocol("edm", "cifar10").reference
    coco = protocol.protocol("ld3-latent", "mscoco").reference
    assert edm is not None and coco is not None
    with pytest.raises(s4s.Error) as caught:
        statistics(edm, dummy, offline=True)
    assert all(part in one_line(caught) for part in (edm.where, str(cache), "cifar10-32x32.npz", "offline"))
    with pytest.raises(s4s.Error, match=r"no such file of reference statistics\. LD3's .* by hand and give its path"):
        statistics(coco, dummy)


def test_folder_statistics_are_found_by_content(tmp_path: Path, dummy: Extractor, cache: Path) -> None:
    folder = photos(tmp_path / "real")
    source = Source("folder", str(folder), count=10)
    first = statistics(source, dummy)
    rows = [pixels(Image.open(path)) for path in sorted(folder.glob("*.png"))]
    plain = Moments.of(dummy(torch.stack(rows)))
    assert torch.allclose(first.covariance, plain.covariance) and torch.allclose(first.mean, plain.mean)
    assert torch.equal(reference.features(source, dummy), dummy(torch.stack(rows)))
    calls = dummy.network.calls
    again = statistics(Source("folder", str(folder.rename(tmp_path / "moved"))), dummy)
    assert dummy.network.calls == calls and torch.equal(again.covariance, first.covariance)
    assert again.record == first.record and again.record["made_from"]["kind"] == "folder"
    photos(tmp_path / "moved", n=1, seed=5)  # same name, another picture: nothing old is found
    changed = statistics(Source("folder", str(tmp_path / "moved")), dummy)
    assert dummy.network.calls > calls and not torch.equal(changed.mean, first.mean)
    assert len(list((cache / "references").iterdir())) == 2


def test_statistics_depend_on_the_weights_not_on_the_name(tmp_path: Path, dummy: Extractor, cache: Path) -> None:
    source = Source("folder", str(photos(tmp_path / "real")))
    first = statistics(source, dummy)
    torch.save({"matrix": 2 * torch.eye(6)}, tmp_path / "dummy.pth")
    assert torch.allclose(statistics(source, extractor("dummy", tmp_path / "dummy.pth", chunk=4)).mean, 2 * first.mean)
    statistics(source, extractor("dummy"))  # an extractor of unknown code: computed every time, never kept
    one, two = (cache / "references").iterdir()
    one.write_bytes(two.read_bytes())
    with pytest.raises(s4s.Error, match="of something else than their name says"):
        statistics(source, dummy)
        statistics(source, extractor("dummy", tmp_path / "dummy.pth", chunk=4))


def test_folder_refusals(tmp_path: Path, dummy: Extractor) -> None:
    folder = photos(tmp_path / "real")
    with pytest.raises(s4s.Error, match="10 images, needs 11"):
        statistics(Source("folder", str(folder), count=11), dummy)
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(folder / "999.jpg")
    with pytest.raises(s4s.Error, match=r"999\.jpg: \[3, 5, 5\] among images of \[3, 8, 12\]; set a resize rule"):
        statistics(Source("folder", str(folder)), dummy)
    assert statistics(Source("folder", str(folder), resize=Resize("adm", 4)), dummy).count == 11
    (folder / "999.jpg").write_bytes((folder / "001.png").read_bytes()[:60])
    with pytest.raises(s4s.Error, match=r"999\.jpg: cannot read the image"):
        statistics(Source("folder", str(folder)), dummy)
    Image.fromarray(np.zeros((8, 12), np.uint16)).save(folder / "999.png")
    (folder / "999.jpg").unlink()
    with pytest.raises(s4s.Error, match="more than 8 bits"):
        statistics(Source("folder", str(folder)), dummy)
    (tmp_path / "empty").mkdir()
    for where, message in (("nothing", "no such folder"), ("empty", "0 images, needs at least 2")):
        with pytest.raises(s4s.Error, match=message):
            statistics(Source("folder", str(tmp_path / where)), dummy)


@pytest.mark.parametrize("size", [4, 6, 16])
def test_resize_rules(size: int, tmp_path: Path) -> None:
    from torchvision import transforms

    image = Image.open(photos(tmp_path / "real", size=(17, 12)) / "001.png").convert("RGB")
    theirs = transforms.Compose([transforms.Resize(size), transforms.CenterCrop(size)])(image)
    assert Resize("torch-fidelity", size)(image).tobytes() == theirs.tobytes()
    assert Resize("adm", size)(image).size == (size, size)
    flat = Image.new("RGB", (40, 30), (9, 8, 7))
    assert Resize("adm", size)(flat).getcolors() == [(size * size, (9, 8, 7))]


def test_dataset_statistics(dummy: Extractor) -> None:
    images = torch.randint(0, 256, (9, 3, 4, 4), dtype=torch.uint8)
    if "nine" not in registry.DATASETS_REGISTRY:
        registry.register_dataset("nine", lambda root, download: images)
        registry.register_dataset("pairs", lambda root, download: [(images[0], 1)])
        registry.register_dataset("away", lambda root, download: (_ for _ in ()).throw(RuntimeError("not found")))
    assert torch.equal(reference.features(Source("dataset", "nine"), dummy), dummy(images))
    assert torch.allclose(statistics(Source("dataset", "nine", 9), dummy).mean, dummy(images).mean(0))
    for where, message in (
        ("nine9", "unknown data set 'nine9'; choose one of: "),
        ("pairs", r"data set 'pairs': item 0 is not a uint8 tensor \[C, H, W\]"),
        ("away", r"data set 'away': cannot get it into .* \(not found\)"),
    ):
        with pytest.raises(s4s.Error, match=message):
            statistics(Source("dataset", where), dummy, offline=True)
    with pytest.raises(s4s.Error, match="statistics, no images"):
        reference.features(Source("npz", "ref.npz"), dummy)
