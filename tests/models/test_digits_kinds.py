"""The digits as other kinds of model: noise, velocity, classes with guidance, latents."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import s4s
from s4s.models import digits_model, weights
from s4s.models.digits import DigitsUNet, digits
from s4s.models.model import Model
from s4s.stages import train
from s4s.stages.train import Kind

KINDS = {
    "vp": Kind("vp"),
    "flow": Kind("flow"),
    "class": Kind(label_dropout=0.1),
    "latent": Kind(latents=2, autoencoder_steps=2),
}


def made(tmp_path: Path, kind: Kind, **spec: object) -> tuple[DigitsUNet, Model]:
    """A network of a kind, layers that start at zero drawn anew so that they say something, and its file's model."""
    net = train.train_denoiser(0, 1, 8, channels=8, kind=kind)
    assert isinstance(net, DigitsUNet)
    draw = torch.Generator().manual_seed(1)
    for block in (net.conv_out, *(part.conv1 for part in [*net.down, *net.middle, *net.up])):
        torch.nn.init.normal_(block.weight, std=0.05, generator=draw)
    weights.save(net, tmp_path / "net.safetensors")
    return net, s4s.load_model({"type": "digits", **spec}, tmp_path / "net.safetensors")


def test_the_default_draws_what_it_always_drew() -> None:
    """Networks of `digits` stay as they are, byte for byte: a draw is ln sigma, then the noise, and nothing else."""
    x, y = digits()[0][:6], digits()[1][:6]
    target, sigma, noisy = train._drawing(Kind())(x, y, torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    expected = (torch.randn(6, generator=generator) * 1.5 - 0.8).exp()
    assert torch.equal(target, x)
    assert torch.equal(sigma, expected)
    assert torch.equal(noisy, x + expected[:, None, None, None] * torch.randn(x.shape, generator=generator))
    assert DigitsUNet(8).config == {"channels": 8, "sigma_data": 0.75}


@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_a_batch_holds_what_the_process_says(kind: str) -> None:
    """At the level of a batch's time, image and target give the noised image back; the exact prediction gives x_0."""
    x, y = digits()[0][:32], digits()[1][:32]
    target, time, noisy = train._drawing(KINDS[kind])(x, y, torch.Generator().manual_seed(0))
    process = digits_model.process(kind)
    level = process.level((time.double() + 1) / 1000 if kind == "vp" else time.double())
    denoise = process.denoiser(lambda x_t, told: target, prediction=digits_model.PREDICTION[kind])
    assert torch.allclose(denoise(process.to_edm(noisy, level[:, None, None, None]), level), x, atol=2e-3)


def test_networks_are_told_their_time(tmp_path: Path) -> None:
    """The model's data prediction is that of the raw network, told the training step or the time."""
    for kind, level in (("vp", 1.3), ("flow", 2.0)):
        net, model = made(tmp_path, KINDS[kind])
        x, sigma = s4s.noise(0, range(3), (1, 8, 8)), torch.tensor(level, dtype=torch.float64)
        t = model.process.time(sigma)
        alpha, scale = (value.float() for value in (model.process.alpha(t), model.process.sigma(t)))
        x_t, told = alpha * x.float(), 1000 * t - 1 if kind == "vp" else t
        with torch.no_grad():
            out = net(x_t, told.float())
            expected = (x_t - scale * out) / alpha if kind == "vp" else (x_t - scale * out) / (alpha + scale)
            assert torch.allclose(model.denoiser(None)(x.float(), sigma), expected, atol=1e-5)
            assert (out - net(x_t, told.float() * 0.5)).abs().max() > 1e-3


def test_guidance_mixes_the_two_outputs(tmp_path: Path) -> None:
    net, model = made(tmp_path, KINDS["class"], classes="uniform", guidance=3.0)
    x, sigma = s4s.noise(0, range(12), (1, 8, 8)).float(), torch.tensor(0.7, dtype=torch.float64)
    labels = model.condition(range(12))
    assert isinstance(labels, Tensor)
    assert labels.tolist() == [*range(10), 0, 1]
    with torch.no_grad():
        told, none = net(x, sigma, labels), net(x, sigma, torch.full((12,), 10))
        assert (told - none).abs().max() > 1e-3
        assert torch.allclose(model.denoiser(labels)(x, sigma), none + 3 * (told - none), atol=1e-5)
        columns = model.denoiser(labels).columns  # type: ignore[attr-defined]
        for level in (sigma, torch.linspace(0.1, 3, 12, dtype=torch.float64)):  # one, or one for each row
            told, none = net(x, level, labels), net(x, level, torch.full((12,), 10))
            for found, expected in zip(columns(x, level, True), (told, none), strict=True):
                assert torch.allclose(found, expected, atol=1e-5)
            assert torch.allclose(columns(x, level, False)[0], told, atol=1e-5)
    assert model.facts["classes"] == {"plan": "uniform", "seed": 0, "count": 10, "null": 10}


def test_a_scale_for_every_sample(tmp_path: Path) -> None:
    """Drawn between the ends by index, and each sample is what a model of its scale makes of it."""
    _, model = made(tmp_path, KINDS["class"], classes="uniform", guidance=[1.0, 4.0])
    condition = model.condition(range(2, 6))
    assert condition is not None and condition[:, 0].tolist() == [2, 3, 4, 5]
    every = model.condition(range(200))
    assert every is not None and torch.equal(every[2:6], condition)
    assert 1 <= every[:, 1].min() < 1.2 and 3.8 < every[:, 1].max() <= 4
    x, sigma = torch.randn(8, *model.shape, generator=torch.Generator().manual_seed(0)), torch.tensor(2.0)
    found = model.denoiser(condition)(x, sigma)  # two copies of the batch
    for i, scale in enumerate(condition[:, 1].tolist()):
        one = s4s.load_model({"type": "digits", "classes": "uniform", "guidance": scale}, tmp_path / "net.safetensors")
        alone = one.denoiser(one.condition(range(2 + i, 3 + i)))
        assert torch.allclose(found[i::4], alone(x[i::4], sigma), atol=1e-5)


def test_latents_decode(tmp_path: Path) -> None:
    net, model = made(tmp_path, KINDS["latent"])
    assert model.shape == (2, 4, 4)
    assert net.autoencoder is not None
    z = net.autoencoder.encode(digits()[0])
    assert z.std().item() == pytest.approx(1, abs=1e-4), "latents have unit variance"
    assert net.sigma_data == pytest.approx(1, abs=1e-4)
    assert torch.allclose(model.decode(z[:4]), net.autoencoder.decode(z[:4]))
    assert model.decode(z[:4]).shape == (4, 1, 8, 8)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ({"guidance": 2.0}, "guidance = 2.0 needs a class-conditional model"),
        ({"t_min": 0.1}, "unknown setting of a digits model 't_min'"),
    ],
)
def test_settings_of_other_kinds_are_refused(tmp_path: Path, spec: dict[str, object], text: str) -> None:
    weights.save(DigitsUNet(8), tmp_path / "net.safetensors")
    with pytest.raises(s4s.errors.Error, match=text):
        s4s.load_model({"type": "digits", **spec}, tmp_path / "net.safetensors")
