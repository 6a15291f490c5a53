"""Named protocols, Inception weights and reference statistics, on small files and dummy extractors; no network."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extractors import register
from PIL import Image
from torch_fidelity import registry
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

import s4s
from s4s import metrics, protocol, reference
from s4s.files import sha256
from s4s.metrics import Extractor, Moments, extractor, frechet
from s4s.models import weights
from s4s.models.digits import Classifier, digits
from s4s.protocol import DATA, INCEPTION, PIXELS, PROTOCOLS, inception_weights
from s4s.reference import Resize, Source, load_npz, statistics


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("S4S_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def dummy(tmp_path: Path) -> Extractor:
    register()
    torch.save({"matrix": torch.eye(6)}, tmp_path / "dummy.pth")
    return extractor("dummy", tmp_path / "dummy.pth", chunk=4)


@pytest.fixture(scope="module")
def inception(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An Inception of random weights, in the published layout."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(Inception, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        torch.save(Inception("random", ["2048"]).state_dict(), path)
    yield path
    path.unlink()


def photos(folder: Path, n: int = 10, size: tuple[int, int] = (12, 8), seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(seed)
    for i in range(n):
        pixels = random.integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{n - i:03d}.png")
    (folder / "notes.txt").write_text("not an image")
    return folder


def one_line(caught: pytest.ExceptionInfo[BaseException]) -> str:
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Protocols


def test_every_protocol_describes_itself_as_json() -> None:
    assert {"edm", "adm", "torch-fidelity", "ld3-latent", "digits"} == PROTOCOLS.keys() == DATA.keys()
    for name, rows in DATA.items():
        for data in (None, *rows):
            record = json.loads(json.dumps(protocol.protocol(name, data).describe(count=5000), allow_nan=False))
            assert record["protocol"] == name and record["changed"] == [] and record["fid_label"] == "FID@5000"
            assert record["uint8_formula"] == PIXELS[record["uint8"]]
            assert data is None or record["reference"]["where"]
    keys = (
        "uint8 resize extractor layer weights weights_sha256 reference reference_statistics samples classes seed first"
    )
    assert set(keys.split()) <= record.keys()


def test_sample_counts_and_labels() -> None:
    edm, coco = protocol.protocol("edm", "cifar10"), protocol.protocol("ld3-latent", "mscoco")
    assert (edm.label(50_000), edm.label(49_999)) == ("FID", "FID@49999")
    assert (coco.label(30_000), coco.label(5000)) == ("FID", "FID@5000")
    assert edm.indices == range(50_000)
    assert protocol.protocol("edm", "cifar10", first=50_000).indices == range(50_000, 100_000)


def test_changes_are_on_record() -> None:
    assert protocol.protocol("edm", "cifar10", seed=1, first=5, uint8="edm").changed == ()
    assert protocol.protocol("edm", reference=Source("folder", "real")).changed == ()
    changed = protocol.protocol("edm", "cifar10", uint8="ldm", reference=Source("folder", "real"))
    assert changed.changed == ("reference", "uint8") and changed.describe()["changed"] == ["reference", "uint8"]


def test_class_plans() -> None:
    plan = protocol.protocol("ld3-latent", "imagenet256")
    uniform = plan.labels(plan.indices, 1000)
    assert plan.classes == "uniform" and uniform is not None and set(uniform.bincount().tolist()) == {50}
    random = protocol.protocol("adm", "imagenet256", seed=3)
    assert random.classes == "random" and random.changed == ()
    whole, part = random.labels(range(2000), 10), random.labels(range(700, 900), 10)
    assert whole is not None and part is not None and torch.equal(whole[700:900], part)
    assert whole.bincount(minlength=10).min() > 140 and whole.max() == 9
    assert protocol.protocol("edm", "cifar10").labels(range(5), 10) is None


@pytest.mark.parametrize(
    ("arguments", "changes", "message"),
    [
        (("fid",), {}, "unknown protocol 'fid'; choose one of: adm, digits, edm, ld3-latent, torch-fidelity"),
        (("edm", "lsun"), {}, "unknown data set of protocol 'edm' 'lsun'; choose one of: afhqv2, cifar10, ffhq"),
        (("edm",), {"uint8": "round"}, "unknown uint8 rule 'round'; choose one of: diffusers, edm, ldm, none"),
        (("edm",), {"classes": "all"}, "unknown class plan 'all'; choose one of: none, random, uniform"),
        (("edm",), {"changed": ()}, "unknown field of a protocol 'changed'; choose one of: about, classes"),
        (("edm",), {"n": 5}, "unknown field of a protocol 'n'"),
        (("edm",), {"samples": 1}, "at least 2 samples"),
        (("ld3-latent",), {"resize": Resize("adm", 8)}, "floats are not resized"),
    ],
)
def test_protocol_refusals(arguments: tuple[str, ...], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(s4s.Error) as caught:
        protocol.protocol(*arguments, **changes)
    assert message in one_line(caught)


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


def test_pixel_rules() -> None:
    x = torch.linspace(-1.1, 1.1, 3 * 64).reshape(1, 3, 8, 8)
    assert PIXELS.keys() == {*metrics.UINT8_RULES, "none"}
    assert torch.equal(protocol.protocol("adm").images(x), metrics.to_uint8(x, "ldm"))
    floats = protocol.protocol("ld3-latent").images(x.double())
    assert floats.dtype == torch.float32 and floats.min() == 0 and floats.max() == 1
    assert torch.allclose(floats[0, 1], x[0, 1] / 2 + 0.5)
    small = protocol.protocol("edm", resize=Resize("adm", 4))
    assert small.images(x).shape == (1, 3, 4, 4) and small.changed == ("resize",)


def test_digits_protocol_is_what_the_pipeline_does(tmp_path: Path) -> None:
    weights.save(Classifier(), tmp_path / "features.safetensors")
    chosen = protocol.protocol("digits")
    extract = chosen.build(tmp_path / "features.safetensors")
    assert chosen.reference is not None
    found = statistics(chosen.reference, extract)
    plain = Moments.of(extract(metrics.to_uint8(digits()[0], "edm")))
    assert found.count == 1797 and torch.allclose(found.covariance, plain.covariance, rtol=1e-10)
    assert frechet(found, plain) == pytest.approx(0, abs=1e-10)
    record = chosen.describe(extract, found, 5000)
    assert record["weights_sha256"] == sha256(tmp_path / "features.safetensors") and record["fid_label"] == "FID@5000"
    assert len(record["reference_statistics"]["sha256"]) == 64 and json.dumps(record)


# Inception


def test_inception_is_built_from_checked_plain_weights(inception: Path, tmp_path: Path) -> None:
    known = replace(INCEPTION, sha256_prefix=sha256(inception)[:8])
    images = torch.randint(0, 256, (2, 3, 299, 299), dtype=torch.uint8)
    edm = protocol.protocol("edm", weights=known).build(inception, chunk=2)
    theirs = Inception("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(inception))
    assert torch.equal(edm(images), theirs(images)[0].double())
    assert edm.identity["weights_sha256"] == sha256(inception)
    ld3 = protocol.protocol("ld3-latent", weights=known).build(inception, chunk=2)
    assert torch.allclose(ld3(images / 256), edm(images), rtol=1e-3, atol=1e-5)  # 2x - 1 is (256x - 128) / 128
    assert torch.equal(reference.as_dtype(images, ld3.dtype), images.float() / 255)
    for extract, wrong in ((edm, images / 256), (ld3, images)):
        with pytest.raises(s4s.Error, match="features are taken from"):
            extract(wrong)


def test_other_weights_are_refused(inception: Path, tmp_path: Path) -> None:
    with pytest.raises(s4s.Error, match="should begin with 6726825d; remove the file"):
        protocol.protocol("edm").build(inception)
    torch.save({"fc.bias": torch.zeros(3)}, tmp_path / "small.pth")
    with pytest.raises(s4s.Error, match="not weights of 'inception-v3-compat'") as caught:
        extractor("inception-v3-compat", tmp_path / "small.pth")
    one_line(caught)
    with pytest.raises(s4s.Error, match="needs its weights"):
        extractor("inception-v3-compat")


def test_no_network_says_where_to_put_the_weights(cache: Path) -> None:
    with pytest.raises(s4s.Error) as caught:
        inception_weights(offline=True)
    text = one_line(caught)
    assert all(part in text for part in (INCEPTION.file, INCEPTION.url, str(cache / INCEPTION.file), "6726825d"))
    cache.mkdir()
    (cache / INCEPTION.file).write_bytes(b"something else")
    with pytest.raises(s4s.Error, match="should begin with 6726825d"):
        inception_weights(offline=True)


class Gadget:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize(
    "content",
    [
        {"fc.bias": Gadget()},
        Gadget(),
        [torch.zeros(3)],
        {"fc.bias": 3},
        {"fc.bias": torch.zeros(3).to_sparse()},
        {"fc.bias": torch.full((3,), float("nan"))},
        {"fc.bias": torch.zeros(1).expand(1 << 40)},
        {"fc": {"bias": torch.zeros(3)}},
    ],
)
def test_hostile_weights(content: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(s4s.Error, match="refused") as caught:
        extractor("inception-v3-compat", tmp_path / "weights.pth")
    one_line(caught)
    assert not (tmp_path / "executed").exists()


def test_truncated_weights(tmp_path: Path) -> None:
    torch.save({"fc.bias": torch.zeros(300)}, whole := io.BytesIO())
    for tenth in range(10):
        (tmp_path / "weights.pth").write_bytes(whole.getvalue()[: len(whole.getvalue()) * tenth // 10])
        with pytest.raises(s4s.Error, match="refused") as caught:
            extractor("vgg16", tmp_path / "weights.pth")
        one_line(caught)
    with pytest.raises(s4s.Error, match="No such file"):
        extractor("vgg16", tmp_path / "nothing.pth")


# Reference statistics


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
    rows = [reference.pixels(Image.open(path)) for path in sorted(folder.glob("*.png"))]
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
