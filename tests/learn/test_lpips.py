"""LPIPS against its formula on torchvision's layers, its files and errors; the other distances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from s4s.errors import Error
from s4s.files import sha256
from s4s.learn import lpips as module
from s4s.learn.distance import Distance, decoded, l1, perceptual, total
from s4s.learn.distances import distance
from s4s.learn.lpips import VGG16, lpips

TAPS = (3, 8, 15, 22, 29)  # layers of torchvision's VGG16: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
CHANNELS = (64, 128, 256, 512, 512)


@pytest.fixture(scope="module")
def torchvision_vgg16() -> nn.Sequential:
    vgg = pytest.importorskip("torchvision").models.vgg
    torch.manual_seed(0)
    layers: nn.Sequential = vgg.make_layers(vgg.cfgs["D"])
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return layers


@pytest.fixture(scope="module")
def heads() -> list[Tensor]:
    return [torch.rand(n, generator=torch.Generator().manual_seed(n)) for n in CHANNELS]


@pytest.fixture
def published(
    torchvision_vgg16: nn.Sequential, heads: list[Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A cache that holds the two files as they are published, with random weights; returns where it lies."""
    monkeypatch.setenv("S4S_CACHE", str(tmp_path))
    state = {f"features.{key}": value for key, value in torchvision_vgg16.state_dict().items()}
    torch.save(state | {"classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg16-397923af.pth")
    named = {f"lin{i}.model.1.weight": head[None, :, None, None] for i, head in enumerate(heads)}
    torch.save(named, tmp_path / "lpips-vgg-heads.pth")
    monkeypatch.setattr(module, "BACKBONE_SHA256", sha256(tmp_path / "vgg16-397923af.pth"))
    monkeypatch.setattr(module, "HEADS_SHA256", sha256(tmp_path / "lpips-vgg-heads.pth"))
    return tmp_path


def formula(layers: nn.Sequential, heads: list[Tensor], a: Tensor, b: Tensor) -> Tensor:
    """Zhang et al. 2018, Eq. 1, as the lpips package computes it."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    a, b = ((x - shift.reshape(1, 3, 1, 1)) / scale.reshape(1, 3, 1, 1) for x in (a, b))
    value = torch.zeros(len(a))
    for i, layer in enumerate(list(layers)[:30]):
        a, b = layer(a), layer(b)
        if i in TAPS:
            unit = [x / (torch.sqrt(torch.sum(x**2, dim=1, keepdim=True)) + 1e-10) for x in (a, b)]
            head = heads[TAPS.index(i)][None, :, None, None]
            value = value + (head * (unit[0] - unit[1]) ** 2).sum(1).mean((1, 2))
    return value


@pytest.mark.parametrize("size", [16, 20, 32])
def test_lpips_is_its_formula(
    published: Path, torchvision_vgg16: nn.Sequential, heads: list[Tensor], size: int
) -> None:
    a, b = torch.rand(2, 3, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    d = distance("lpips")
    with torch.no_grad():
        torch.testing.assert_close(d(a, b), formula(torchvision_vgg16, heads, a, b), rtol=1e-5, atol=1e-6)
        assert d(a, a).abs().max() == 0 and d.name == "lpips" and d.features(a).shape[0] == 3
        assert d(a.double(), b.double()).dtype == torch.float32


def test_one_safetensors_is_all_that_is_needed(published: Path) -> None:
    made = module.load()
    for file in published.glob("*.pth"):
        file.unlink()
    again = module.load(offline=True)
    assert sorted(path.name for path in published.iterdir()) == ["lpips-vgg16.safetensors"]
    assert all(torch.equal(p, q) for p, q in zip(made.parameters(), again.parameters(), strict=True))
    assert not any(p.requires_grad for p in again.parameters()) and len(again.convs) == 13


def test_lpips_has_a_gradient_even_where_nothing_is_active() -> None:
    net = VGG16()
    for parameter in net.convs.parameters():
        parameter.data.zero_()
    x = torch.zeros(1, 3, 16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(lpips(net)(x, torch.ones(1, 3, 16, 16)).sum(), x)
    assert slope.isfinite().all()


def test_grey_images_are_broadcast() -> None:
    torch.manual_seed(0)
    d = lpips(VGG16())
    a, b = torch.rand(2, 2, 1, 16, 16)
    with torch.no_grad():
        assert torch.allclose(d(a, b), d(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1)))


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S4S_CACHE", str(tmp_path))
    with pytest.raises(
        Error, match=r"cannot fetch https://.*vgg.pth: offline.*put it at .*lpips-vgg-heads.pth"
    ) as caught:
        module.load(offline=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("damage", "message"), [
    (lambda folder: (folder / "lpips-vgg16.safetensors").write_bytes(b"{}"), "cannot read the weights of LPIPS"),
    (lambda folder: (folder / "lpips-vgg-heads.pth").write_bytes(b"{}"), "has SHA-256 .*, not "),
])  # fmt: skip
def test_damaged_files(published: Path, damage: object, message: str) -> None:
    damage(published)  # type: ignore[operator]
    with pytest.raises(Error, match=message) as caught:
        module.load(offline=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", [{}, {"lin0.model.1.weight": -torch.ones(1, 64, 1, 1)}, [1, 2]])
def test_other_files_with_the_right_hash(published: Path, state: object, monkeypatch: pytest.MonkeyPatch) -> None:
    path = published / "lpips-vgg-heads.pth"
    torch.save(state, path)
    monkeypatch.setattr(module, "HEADS_SHA256", sha256(path))
    with pytest.raises(Error, match=r"does not hold the weights|not a file of named tensors"):
        module.load(offline=True)
    assert not (published / "lpips-vgg16.safetensors").exists()


def test_negative_heads_are_refused(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = published / "lpips-vgg-heads.pth"
    torch.save({f"lin{i}.model.1.weight": -torch.ones(1, n, 1, 1) for i, n in enumerate(CHANNELS)}, path)
    monkeypatch.setattr(module, "HEADS_SHA256", sha256(path))
    with pytest.raises(Error, match="heads is negative"):
        module.load(offline=True)


@pytest.mark.parametrize("shape", [(2, 4, 32, 32), (2, 3, 8, 8), (2, 3, 32)])
def test_wrong_images(shape: tuple[int, ...]) -> None:
    with pytest.raises(Error, match=r"LPIPS takes .* at least 16x16"):
        lpips(VGG16()).features(torch.zeros(shape))


def test_l1_counts_absolute_differences() -> None:
    a, b = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    exact = (a - b).abs().mean((1, 2))
    assert torch.allclose(l1(1e-9)(a, b), exact) and torch.allclose(distance("l1")(a, b), exact, atol=1e-3)
    assert l1()(a, a).abs().max() == 0


@pytest.mark.parametrize("d", [distance("l2"), l1(), l1(0.3)], ids=["l2", "l1", "l1-wide"])
def test_weights_give_the_gradient_and_bound_the_curvature(d: Distance) -> None:
    """Half the distance lies below its quadratic through any difference, and touches it there."""
    r = torch.linspace(-2, 2, 41, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(d.penalty(r).sum() / 2, r)
    r = r.detach()
    weight = torch.ones_like(r) if d.weight is None else d.weight(r)
    assert torch.allclose(slope, weight * r)
    other = torch.linspace(-3, 3, 25, dtype=torch.float64)[:, None]
    quadratic = d.penalty(r) / 2 + slope * (other - r) + weight / 2 * (other - r) ** 2
    assert (d.penalty(other) / 2 <= quadratic + 1e-12).all()


def test_decoded_measures_what_latents_decode_to() -> None:
    z, w = torch.randn(2, 4, 2, 3, 3, dtype=torch.float64)
    decode = nn.Upsample(scale_factor=2)
    for d in (distance("l1"), distance("l2"), perceptual(lambda x: [x])):
        assert torch.allclose(decoded(d, decode)(z, w), d(decode(z), decode(w)))
    assert decoded(distance("l1"), decode).name == "l1 decoded"


def test_sums() -> None:
    """Of any distances, LPIPS' form and L1 too: value, gradient by the weights, name."""
    a, b = torch.randn(2, 5, 3, 4, 4, dtype=torch.float64)
    parts = [(0.5, distance("l2")), (2.0, l1(0.3)), (3.0, perceptual(lambda x: [x, x[:, :, ::2]]))]
    d = total(*parts)
    assert torch.allclose(d(a, b), torch.stack([share * part(a, b) for share, part in parts]).sum(0))
    r = (d.features(a) - d.features(b)).requires_grad_(True)
    (slope,) = torch.autograd.grad(d.penalty(r).sum() / 2, r)
    assert d.weight is not None and torch.allclose(slope, d.weight(r) * r)
    assert d.name == "0.5*l2+2*l1+3*feature"
    by_name = distance({"l2": 0.5, "l1": 2.0})
    assert by_name.name == "0.5*l2+2*l1"
    assert torch.equal(by_name(a, b), total((0.5, distance("l2")), (2.0, distance("l1")))(a, b))
    with pytest.raises(Error, match="a positive weight and no negative one"):
        total((-1.0, distance("l2")))


@pytest.mark.parametrize(("call", "message"), [
    (lambda: Distance("mine", None), "features of a distance must be a function, such as .*, got a NoneType"),  # type: ignore[arg-type]
    (lambda: perceptual(None), "taps must be a function"),  # type: ignore[arg-type]
    (lambda: decoded("l2", torch.tanh), r"decoded takes a distance, such as s4s\.distance\('lpips'\), got a str"),  # type: ignore[arg-type]
    (lambda: decoded(distance("l2"), None), "decode must be a function, such as model.decode"),  # type: ignore[arg-type]
])  # fmt: skip
def test_what_is_no_distance_is_one_line(call: Any, message: str) -> None:
    with pytest.raises(Error, match=message):
        call()
