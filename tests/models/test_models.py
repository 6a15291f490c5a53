"""The registry, class plans, and EDM networks as models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import s4s
from s4s.errors import Error
from s4s.files import sha256
from s4s.models import MODELS, load_model
from s4s.models.ddpmpp import UNetConfig
from s4s.models.edm import EDMNetwork, dump_record
from s4s.models.model import classes, in_chunks, make_denoiser


def edm_file(folder: Path, classes: int) -> tuple[Path, EDMNetwork]:
    torch.manual_seed(classes)
    net = EDMNetwork(UNetConfig(8, label_dim=classes, model_channels=8, channel_mult=(1, 2), blocks=1, attention=(4,)))
    for value in net.parameters():
        torch.nn.init.normal_(value, std=0.1)
    path = folder / "net.safetensors"
    save_file(net.state_dict(), path)
    path.with_suffix(".json").write_text(dump_record(net, {"sha256": sha256(path)}, {"licence": "CC BY-NC-SA 4.0"}))
    return path, net.eval().requires_grad_(False)


def test_an_edm_network_is_its_own_denoiser(tmp_path: Path) -> None:
    path, net = edm_file(tmp_path, 0)
    model = load_model({"type": "edm"}, path)
    x, sigma = 3 * torch.randn(2, 3, 8, 8, dtype=torch.float64), torch.tensor([0.5, 7.0])
    assert torch.equal(model.denoiser(None)(x, sigma), net(x, sigma))
    assert (model.process.sigma_min, model.process.sigma_max, model.shape) == (0.002, 80.0, (3, 8, 8))  # type: ignore[attr-defined]
    assert model.condition(range(4)) is None and torch.equal(model.decode(x), x)
    assert model.facts_of(range(4)) == model.facts
    assert model.facts["weights_sha256"] == sha256(path) and json.loads(json.dumps(model.facts)) == model.facts
    x.requires_grad_()
    solver = s4s.solver("ddim", s4s.grid("edm", model.process, 3))
    s4s.sample(solver, model.denoiser(None), x).sum().backward()
    assert x.grad is not None and (x.grad != 0).any()


def test_a_class_conditional_edm_network_follows_the_plan(tmp_path: Path) -> None:
    path, net = edm_file(tmp_path, 4)
    model = load_model({"type": "edm"}, path)
    labels = model.condition(range(2, 5))
    assert labels is not None and labels.tolist() == [2, 3, 0]
    x, sigma = torch.randn(6, 3, 8, 8), torch.tensor(2.0)
    torch.testing.assert_close(model.denoiser(labels)(x, sigma), net(x, sigma, labels.repeat(2)))
    with pytest.raises(Error, match="needs a condition"):
        model.denoiser(None)


def test_errors_name_what_is_accepted(tmp_path: Path) -> None:
    with pytest.raises(Error, match="s4s import edm"):
        load_model({"type": "edm"})
    with pytest.raises(Error, match="unknown setting of a edm model 'sigma'; choose one of: channels_last, class_seed"):
        load_model({"type": "edm", "sigma": 1})
    with pytest.raises(Error, match="unknown class plan 'even'; choose one of: random, uniform"):
        classes("even", range(10))
    for spec in (None, "dit", 3):
        with pytest.raises(Error, match=r'a model is a mapping with its type, such as {"type": "diffusers"}, got'):
            load_model(spec)  # type: ignore[arg-type]
    with pytest.raises(Error, match=r"unknown model type \['edm'\]; choose one of: diffusers, digits"):
        load_model({"type": ["edm"]})
    assert set(MODELS) == {"digits", "edm", "ldm", "stable-diffusion", "diffusers"}


def test_random_classes_are_even_in_the_long_run_and_differ_by_seed() -> None:
    draw = classes("random", range(10), 1)(range(20_000))
    assert draw is not None
    counts = draw.bincount().double()
    assert ((counts - 2000) ** 2 / 2000).sum() < 30  # chi-squared with 9 degrees of freedom: 1 in 2000
    other = classes("random", range(10), 2)(range(20_000))
    assert other is not None and 0.05 < (draw == other).double().mean() < 0.15
    assert classes("uniform", [5, 7])(range(1, 4)).tolist() == [7, 5, 7]  # type: ignore[union-attr]


def test_the_network_computes_in_its_dtype_and_the_state_keeps_its_own() -> None:
    seen = []

    def network(x: torch.Tensor, time: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
        seen.append((x.dtype, time.dtype))
        return x

    denoise = make_denoiser(s4s.VPLinear(), network, dtype=torch.bfloat16)(None)
    assert denoise(torch.ones(2, 3, dtype=torch.float64), torch.tensor(1.0)).dtype == torch.float64
    assert seen == [(torch.bfloat16, torch.float64)]
    sizes: list[int] = []
    in_chunks(lambda z: sizes.append(len(z)) or z, 4, torch.float32)(torch.ones(10, 1))  # type: ignore[func-returns-value]
    assert sizes == [4, 4, 2]
