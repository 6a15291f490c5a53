"""8-bit rules, extractors and their weights: honest, missing, hostile; no network."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import CANARY, Gadget, one_line
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3 as Inception

import s4s
from s4s.files import sha256
from s4s.models import weights
from s4s.models.digits import Classifier
from s4s.score import features, protocol, reference
from s4s.score.features import INCEPTION, extractor, inception_weights


def test_uint8_rules_differ_as_documented() -> None:
    x = torch.linspace(-1, 1, 100_001, dtype=torch.float64)
    edm, ldm, diffusers = (features.to_uint8(x, rule).int() for rule in ("edm", "ldm", "diffusers"))
    assert ((edm != ldm).double().mean() - 0.5).abs() < 0.01
    assert (edm != diffusers).double().mean() < 1e-2
    assert edm.min() == 0 and edm.max() == 255


def test_unknown_uint8_rule() -> None:
    with pytest.raises(s4s.Error, match="unknown uint8 rule 'round'; choose one of: diffusers, edm, ldm"):
        features.to_uint8(torch.zeros(2), "round")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_images_that_are_not_finite_are_refused(value: float) -> None:
    x = torch.zeros(5, 3, 2, 2)
    x[3, 1, 0, 0] = x[4, 2, 1, 1] = x[4, 0, 0, 0] = value
    refuse = [lambda rule=rule: features.to_uint8(x, rule) for rule in features.UINT8_RULES]
    refuse += [lambda name=name: protocol.protocol(name).images(x) for name in ("edm", "ld3-latent")]
    for images in refuse:
        with pytest.raises(s4s.Error, match="2 of 5 images hold NaN or infinity, the first is number 3: ") as caught:
            images()
        one_line(caught)
    assert torch.equal(features.to_uint8(x[:3]), torch.full((3, 3, 2, 2), 128, dtype=torch.uint8))


def test_features_do_not_depend_on_the_split(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights.save(Classifier(), tmp_path / "features.safetensors")
    extract = extractor("digits", tmp_path / "features.safetensors")
    images = torch.randint(0, 256, (610, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(extract(images)[250:500], extract(images[250:500]))
    assert extract(images).shape == (610, 64)


def test_unknown_extractor() -> None:
    with pytest.raises(s4s.Error, match="unknown feature extractor 'inception9'; choose one of: "):
        extractor("inception9")


@pytest.mark.parametrize("name", ["dinov2-vit-s-14", "dinov2-vit-g-14", "clip-vit-b-32", "clip-rn50"])
@pytest.mark.parametrize("given", [False, True])
def test_loaders_that_run_code_are_refused(
    name: str, given: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for loader in ("torch.hub.load", "torch.jit.load", "torch.hub.load_state_dict_from_url"):
        monkeypatch.setattr(loader, lambda *_, **__: pytest.fail("a loader was called"))
    torch.save({"fc.bias": torch.zeros(3)}, tmp_path / "weights.pth")
    with pytest.raises(s4s.Error, match=f"{name}.*executes code that it fetches.*Choose one of: .*vgg16") as caught:
        extractor(name, tmp_path / "weights.pth" if given else None)
    one_line(caught)


def test_extractors_need_their_weights_and_know_their_layers(tmp_path: Path) -> None:
    with pytest.raises(s4s.Error, match="'vgg16' needs its weights; give their file"):
        extractor("vgg16")
    for path, reason in ((tmp_path / "gone", "No such file"), (tmp_path, "Is a directory")):
        for name in ("vgg16", "digits"):
            with pytest.raises(s4s.Error, match=f"cannot read the weights .{reason}"):
                extractor(name, path)
    with pytest.raises(s4s.Error, match="unknown layer of the feature extractor 'digits' '65'; choose one of: 64"):
        extractor("digits", tmp_path / "weights.safetensors", "65")
    with pytest.raises(s4s.Error, match="'inception-v3-compat' '2049'; choose one of: 192, 2048, 64, 768"):
        extractor("inception-v3-compat", tmp_path / "weights.pth", "2049")


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
    assert not (tmp_path / CANARY).exists()


def test_truncated_weights(tmp_path: Path) -> None:
    torch.save({"fc.bias": torch.zeros(300)}, whole := io.BytesIO())
    for tenth in range(10):
        (tmp_path / "weights.pth").write_bytes(whole.getvalue()[: len(whole.getvalue()) * tenth // 10])
        with pytest.raises(s4s.Error, match="refused") as caught:
            extractor("vgg16", tmp_path / "weights.pth")
        one_line(caught)
    with pytest.raises(s4s.Error, match="No such file"):
        extractor("vgg16", tmp_path / "nothing.pth")
