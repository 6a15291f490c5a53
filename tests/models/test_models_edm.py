"""The EDM network against plain formulas and against numbers of the published code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import s4s
from s4s.models.ddpmpp import UNet, UNetConfig
from s4s.models.edm import AFHQV2, CIFAR10, FFHQ, EDMNetwork, skeleton

SMALL = UNetConfig(8, channels=3, augment_dim=9, model_channels=8, channel_mult=(1, 2), blocks=1, attention=(4,))
LABELLED = UNetConfig(4, channels=2, label_dim=5, model_channels=8, channel_mult=(2,), blocks=2, attention=())


@pytest.mark.parametrize(("config", "parameters", "tensors"), [
    (CIFAR10, 55_733_891, 425), (FFHQ, 61_805_571, 553), (AFHQV2, 61_805_571, 553),
])  # fmt: skip
def test_counts_of_the_published_networks(config: UNetConfig, parameters: int, tensors: int) -> None:
    net = skeleton(config)
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert len(net.state_dict()) == tensors


@pytest.mark.parametrize(("name", "shape"), [
    ("map_layer0.weight", (512, 128)), ("map_augment.weight", (128, 9)), ("enc.32x32_conv.weight", (128, 3, 3, 3)),
    ("enc.32x32_block0.conv0.weight", (256, 128, 3, 3)), ("enc.32x32_block0.affine.weight", (256, 512)),
    ("enc.32x32_block0.skip.weight", (256, 128, 1, 1)), ("enc.16x16_down.conv0.resample_filter", (1, 1, 2, 2)),
    ("enc.16x16_block3.qkv.weight", (768, 256, 1, 1)), ("enc.16x16_block3.norm2.weight", (256,)),
    ("dec.8x8_in0.proj.weight", (256, 256, 1, 1)), ("dec.8x8_in1.conv1.weight", (256, 256, 3, 3)),
    ("dec.16x16_block4.qkv.weight", (768, 256, 1, 1)), ("dec.32x32_up.skip.resample_filter", (1, 1, 2, 2)),
    ("dec.32x32_block4.conv0.weight", (256, 384, 3, 3)), ("dec.32x32_aux_norm.weight", (256,)),
    ("dec.32x32_aux_conv.weight", (3, 256, 3, 3)),
])  # fmt: skip
def test_published_names_and_shapes(name: str, shape: tuple[int, ...]) -> None:
    assert skeleton(CIFAR10).state_dict()[f"model.{name}"].shape == shape


def test_attention_is_where_the_published_network_has_it() -> None:
    names = {key.removesuffix(".qkv.weight") for key in skeleton(CIFAR10).state_dict() if key.endswith("qkv.weight")}
    assert names == {
        f"model.{n}" for n in (*(f"enc.16x16_block{i}" for i in range(4)), "dec.8x8_in0", "dec.16x16_block4")
    }


def filled(config: UNetConfig, dtype: torch.dtype = torch.float64) -> EDMNetwork:
    """Weights from a formula, so that other code can be given the same: 0.3 sin(0.7 k + i), norms around 1."""
    net = EDMNetwork(config).to(dtype).eval().requires_grad_(False)
    for i, (name, value) in enumerate(sorted(net.named_parameters())):
        wave = 0.3 * torch.sin(0.7 * torch.arange(value.numel(), dtype=torch.float64) + i)
        value.copy_(wave.reshape(value.shape) + ("norm" in name and "weight" in name))
    return net


def images(config: UNetConfig, batch: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    shape = (batch, config.channels, config.resolution, config.resolution)
    return torch.cos(1.3 * torch.arange(math.prod(shape), dtype=torch.float64) ** 1.5).reshape(shape).to(dtype)


# What the published code (NVlabs/edm at 008a4e5) returns for `filled` and `images`, sigma = 0.05, 1, 20, float32:
# every 29th value of the output for SMALL; every 7th for LABELLED with classes 0, 4 and 2.
PUBLISHED = json.loads((Path(__file__).parents[1] / "golden" / "edm_network.json").read_text())
LEVELS = torch.tensor([0.05, 1.0, 20.0], dtype=torch.float64)


def test_agrees_with_numbers_of_the_published_code() -> None:
    out = filled(SMALL)(images(SMALL), LEVELS).flatten()[::29]
    torch.testing.assert_close(out, torch.tensor(PUBLISHED["small"], dtype=torch.float64), rtol=1e-5, atol=1e-5)
    out = filled(LABELLED)(images(LABELLED), LEVELS, class_labels=torch.tensor([0, 4, 2])).flatten()[::7]
    torch.testing.assert_close(out, torch.tensor(PUBLISHED["labelled"], dtype=torch.float64), rtol=1e-5, atol=1e-5)


# --- the same network once more, in plain formulas on the state dict ---


def plain_norm(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    groups = min(32, x.shape[1] // 4)
    parts = x.reshape(len(x), groups, -1)
    mean, var = parts.mean(2, keepdim=True), parts.var(2, keepdim=True, unbiased=False)
    x = ((parts - mean) / (var + 1e-6).sqrt()).reshape(x.shape)
    return x * w[f"{name}.weight"][:, None, None] + w[f"{name}.bias"][:, None, None]


def plain_conv(w: dict[str, Tensor], name: str, x: Tensor, resample: str = "") -> Tensor:
    if resample == "down":
        x = (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4
    if resample == "up":
        x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    weight = w[f"{name}.weight"]
    size, pad = x.shape[2], weight.shape[2] // 2
    x = F.pad(x, [pad] * 4)
    taps = [(i, j) for i in range(weight.shape[2]) for j in range(weight.shape[3])]
    out = sum(torch.einsum("oc,nchw->nohw", weight[:, :, i, j], x[:, :, i : i + size, j : j + size]) for i, j in taps)
    return out + w[f"{name}.bias"][:, None, None]


def plain_block(w: dict[str, Tensor], name: str, x: Tensor, embedding: Tensor) -> Tensor:
    resample = next((kind for kind in ("down", "up") if name.endswith(kind)), "")
    silu = lambda v: v / (1 + (-v).exp())
    h = plain_conv(w, f"{name}.conv0", silu(plain_norm(w, f"{name}.norm0", x)), resample)
    h = h + (embedding @ w[f"{name}.affine.weight"].T + w[f"{name}.affine.bias"])[:, :, None, None]
    h = plain_conv(w, f"{name}.conv1", silu(plain_norm(w, f"{name}.norm1", h)))
    x = (h + (plain_conv(w, f"{name}.skip", x, resample) if f"{name}.skip.weight" in w else x)) / math.sqrt(2)
    if f"{name}.qkv.weight" not in w:
        return x
    qkv = plain_conv(w, f"{name}.qkv", plain_norm(w, f"{name}.norm2", x)).flatten(2)
    q, k, v = qkv[:, 0::3], qkv[:, 1::3], qkv[:, 2::3]
    weight = torch.einsum("ncq,nck->nqk", q, k).div(math.sqrt(q.shape[1])).softmax(2)
    mixed = torch.einsum("nqk,nck->ncq", weight, v).reshape(x.shape)
    return (x + plain_conv(w, f"{name}.proj", mixed)) / math.sqrt(2)


def plain_embedding(w: dict[str, Tensor], c_noise: Tensor) -> Tensor:
    half = w["map_layer0.weight"].shape[1] // 2
    angle = torch.stack([c_noise * 10_000 ** (-k / (half - 1)) for k in range(half)], 1)
    x = torch.cat([angle.sin(), angle.cos()], 1)
    for name in ("map_layer0", "map_layer1"):
        x = x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
        x = x / (1 + (-x).exp())
    return x


def plain_small(w: dict[str, Tensor], x: Tensor, c_noise: Tensor) -> Tensor:
    e = plain_embedding(w, c_noise)
    a = plain_conv(w, "enc.8x8_conv", x)
    b = plain_block(w, "enc.8x8_block0", a, e)
    c = plain_block(w, "enc.4x4_down", b, e)
    d = plain_block(w, "enc.4x4_block0", c, e)
    x = plain_block(w, "dec.4x4_in1", plain_block(w, "dec.4x4_in0", d, e), e)
    x = plain_block(w, "dec.4x4_block0", torch.cat([x, d], 1), e)
    x = plain_block(w, "dec.4x4_block1", torch.cat([x, c], 1), e)
    x = plain_block(w, "dec.8x8_up", x, e)
    x = plain_block(w, "dec.8x8_block0", torch.cat([x, b], 1), e)
    x = plain_block(w, "dec.8x8_block1", torch.cat([x, a], 1), e)
    x = plain_norm(w, "dec.8x8_aux_norm", x)
    return plain_conv(w, "dec.8x8_aux_conv", x / (1 + (-x).exp()))


def test_agrees_with_plain_formulas() -> None:
    net = filled(SMALL)
    weights, x = dict(net.model.state_dict()), images(SMALL)
    c_noise = LEVELS.log() / 4
    torch.testing.assert_close(net.model(x, c_noise), plain_small(weights, x, c_noise), rtol=1e-11, atol=1e-11)
    data = 0.5
    total = (LEVELS**2 + data**2).sqrt()[:, None, None, None]
    inside = plain_small(weights, x / total, c_noise)
    expected = data**2 / total**2 * x + LEVELS[:, None, None, None] * data / total * inside
    torch.testing.assert_close(net(x, LEVELS), expected, rtol=1e-11, atol=1e-11)


def test_every_weight_but_the_augmentation_matters() -> None:
    net = filled(SMALL).requires_grad_(True)
    net(images(SMALL), LEVELS).square().sum().backward()
    silent = {name for name, value in net.named_parameters() if value.grad is None or not value.grad.any()}
    assert silent == {"model.map_augment.weight"}


def test_gradient_with_respect_to_the_image() -> None:
    net = filled(LABELLED)
    x = images(LABELLED, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: net(v, 0.7)[:, :, ::3, ::3], (x,))


def test_levels_may_be_scalar_or_one_a_sample() -> None:
    net, x = filled(SMALL), images(SMALL)
    together = net(x, LEVELS)
    for i, level in enumerate(LEVELS):
        torch.testing.assert_close(net(x[i : i + 1], level), together[i : i + 1], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(net(x[i : i + 1], float(level)), together[i : i + 1], rtol=1e-10, atol=1e-12)


def test_the_state_keeps_its_precision_around_a_float32_network() -> None:
    net, x = filled(SMALL, torch.float32), images(SMALL)
    out = net(x, 1e-7)
    assert out.dtype == torch.float64
    assert (out - x).abs().max() < 1e-5  # c_skip -> 1, and no rounding of x to float32 on the way
    assert net(x.bfloat16(), 1.0).dtype == torch.float32


def test_class_labels() -> None:
    net, x = filled(LABELLED), images(LABELLED)
    numbers = torch.tensor([0, 4, 2])
    rows = F.one_hot(numbers, 5)
    assert torch.equal(net(x, 1.0, class_labels=numbers), net(x, 1.0, class_labels=rows))
    assert torch.equal(net(x, 1.0), net(x, 1.0, class_labels=torch.zeros(3, 5)))
    assert not torch.allclose(net(x, 1.0), net(x, 1.0, class_labels=numbers))
    with pytest.raises(s4s.Error, match=r"class_labels must be \[3\] or \[3, 5\], got \[3, 4\]"):
        net(x, 1.0, class_labels=torch.zeros(3, 4))
    with pytest.raises(s4s.Error, match="unconditional"):
        filled(SMALL)(images(SMALL), 1.0, class_labels=numbers)


def test_wrong_images_are_refused() -> None:
    with pytest.raises(s4s.Error, match=r"takes \[B, 3, 8, 8\] images, got \[1, 3, 16, 16\]"):
        filled(SMALL)(torch.zeros(1, 3, 16, 16), 1.0)


@pytest.mark.parametrize(("change", "message"), [
    ({"resolution": 6, "channel_mult": (1, 1, 1)}, "cannot be halved over 3 levels"),
    ({"resolution": 0}, "'resolution' must be an integer"), ({"model_channels": 2.0}, "'model_channels' must be"),
    ({"channel_mult": ()}, "cannot be halved"), ({"channel_mult": (0,)}, "'channel_mult' must be an integer from 1"),
    ({"channel_mult": 2}, "'channel_mult' must be a list"), ({"attention": (1,) * 99}, "'attention' must be a list"),
    ({"dropout": 1.0}, "'dropout'"), ({"blocks": True}, "'blocks'"), ({"model_channels": 144}, "32 groups"),
])  # fmt: skip
def test_wrong_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(s4s.Error, match=message):
        skeleton(UNetConfig(**{"resolution": 8} | change))  # type: ignore[arg-type]


def test_dropout_only_in_training() -> None:
    torch.manual_seed(0)
    net = UNet(UNetConfig(4, model_channels=8, channel_mult=(1,), blocks=1, dropout=0.5))
    x, c_noise = torch.randn(2, 3, 4, 4), torch.zeros(2)
    assert not torch.equal(net.train()(x, c_noise), net(x, c_noise))
    assert torch.equal(net.eval()(x, c_noise), net(x, c_noise))
