"""Your own model in the diffusers layout, against diffusers' own pipelines."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pipelines import (
    autoencoder,
    close,
    ddim,
    ddpm_folder,
    diffusers,
    edit_json,
    listed,
    states,
    transformer,
    unet,
)
from safetensors.torch import load_file, save_file
from torch import Tensor

import s4s
from s4s.discrete import VPDiscrete
from s4s.errors import Error
from s4s.models import hub, load_model
from s4s.process import Flow

SCHEDULES: list[tuple[dict[str, Any], str]] = [
    ({"beta_schedule": "linear"}, "eps"),
    (
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "v_prediction"},
        "v",
    ),
    ({"beta_schedule": "squaredcos_cap_v2", "prediction_type": "sample"}, "x0"),
    ({"trained_betas": torch.linspace(0.001, 0.3, 1000).square().tolist()}, "eps"),
]


@pytest.mark.parametrize("config, prediction", SCHEDULES)
def test_denoise_agrees_with_the_scheduler_at_its_own_times(
    tmp_path: Path, config: dict[str, Any], prediction: str
) -> None:
    net, scheduler = unet(), ddim(**config)
    model = load_model({"type": "diffusers", "path": str(ddpm_folder(tmp_path, net, scheduler))})
    assert isinstance(model.process, VPDiscrete) and model.facts["prediction"] == prediction
    scheduler.set_timesteps(1000)
    table = model.process.alpha(torch.arange(1, 1001) / 1000) ** 2
    torch.testing.assert_close(scheduler.alphas_cumprod.double(), table, atol=1e-7, rtol=1e-4)
    scheduler.alphas_cumprod = table  # its own are rounded to float32, which costs 1e-3 of the smallest level
    for index in (3, 500, 950):
        bar = table[index]
        x = states(2, 3)
        expected = scheduler.step(net(x, index).sample, index, x).pred_original_sample
        sigma = model.process.level((index + 1) / 1000)
        close(sigma, ((1 - bar) / bar).sqrt())
        close(model.denoiser(None)(x / bar.sqrt().float(), sigma), expected)
    assert model.condition(range(3)) is None
    assert torch.equal(model.decode(x), x)
    assert json.loads(json.dumps(model.facts)) == model.facts
    assert set(model.facts["files_sha256"]) >= {"unet/diffusion_pytorch_model.safetensors", "unet/config.json"}


def test_sampling_agrees_with_ddim_of_the_pipeline(tmp_path: Path) -> None:
    net, scheduler = unet(), ddim()
    model = load_model({"type": "diffusers"}, ddpm_folder(tmp_path, net, scheduler))
    scheduler.set_timesteps(4)
    times = [*((scheduler.timesteps + 1) / 1000).tolist(), 1 / 1000]
    levels = model.process.level(torch.tensor(times, dtype=torch.float64))
    x = states(2, 3)
    found = s4s.sample(s4s.solver("ddim", levels), model.denoiser(None), model.process.to_edm(x.double(), levels[0]))
    for index in scheduler.timesteps:
        x = scheduler.step(net(x, index).sample, index, x).prev_sample
    close(model.process.from_edm(found, levels[-1]), x)


def test_classes_and_guidance_of_a_unet(tmp_path: Path) -> None:
    net = unet(num_class_embeds=5)
    path = ddpm_folder(tmp_path, net, ddim())
    guided = load_model({"type": "diffusers", "guidance": 3.0, "null_class": 4}, path)
    plain = load_model({"type": "diffusers"}, path)
    labels = guided.condition(range(8))
    assert labels is not None and labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    x, sigma = states(8, 3), torch.full((8,), 0.7)
    cond, null = (plain.denoiser(c)(x, sigma) for c in (labels, torch.full((8,), 4)))
    close(guided.denoiser(labels)(x, sigma), null + 3 * (cond - null))
    assert plain.facts["classes"]["count"] == 5 and guided.facts["classes"]["count"] == 4
    with pytest.raises(Error, match="needs a condition"):
        plain.denoiser(None)
    with pytest.raises(Error, match="'null_class'"):
        load_model({"type": "diffusers", "guidance": 3.0}, path)


def test_flow_transformer(tmp_path: Path) -> None:
    net, vae = transformer(), autoencoder()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    diffusers.DiTPipeline(net, vae, scheduler).save_pretrained(tmp_path)
    model = load_model({"type": "diffusers", "guidance": 4.0, "t_max": 0.99}, tmp_path)
    assert isinstance(model.process, Flow) and model.shape == (4, 8, 8) and model.process.t_max == 0.99
    labels, t, x = torch.tensor([1, 5]), 0.37, states(2, 4).double()
    x_t = (1 - t) * x
    cond, null = (net(x_t.float(), torch.full((2,), 1000 * t), c).sample for c in (labels, torch.tensor([6, 6])))
    expected = x_t - t * (null + 4 * (cond - null))
    close(model.denoiser(labels)(x, torch.tensor(t / (1 - t))), expected)
    z = states(9, 4)
    close(model.decode(z), vae.decode(z / vae.config.scaling_factor).sample)
    grad = z[:1].clone().requires_grad_()
    model.decode(model.denoiser(labels[:1])(grad, torch.tensor(0.5))).sum().backward()
    assert (grad.grad != 0).any() and all(p.grad is None for p in net.parameters())

    # the pipeline's own Euler steps, in the flow's coordinates
    scheduler.set_timesteps(sigmas=[0.99, 0.6, 0.2])
    y = states(2, 4)
    times = scheduler.sigmas.double().clamp(min=1e-3)
    start = model.process.to_edm(y.double(), model.process.level(times[0]))
    solver = s4s.solver("ddim", model.process.level(times))
    plain = load_model({"type": "diffusers"}, tmp_path)
    found = s4s.sample(solver, plain.denoiser(labels), start)
    for a, b in itertools.pairwise(times):
        y = y + (b - a).float() * net(y, torch.full((2,), 1000 * a.item()), labels).sample
    close(model.process.from_edm(found, solver.sigma[-1]), y)


def test_a_network_that_also_predicts_a_variance(tmp_path: Path) -> None:
    net = transformer(out_channels=8)
    diffusers.DiTPipeline(net, autoencoder(), ddim()).save_pretrained(tmp_path)
    model = load_model({"type": "diffusers"}, tmp_path)
    x, labels, sigma = states(2, 4), torch.tensor([0, 3]), model.process.level(0.501)
    alpha = model.process.alpha(0.501).float()
    eps = net(alpha * x, torch.full((2,), 500.0), labels).sample[:, :4]
    close(model.denoiser(labels)(x, sigma), x - sigma.float() * eps)


def scheduler_is(name: str, **config: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        edit_json(root / "model_index.json", scheduler=["diffusers", name])
        edit_json(root / "scheduler" / "scheduler_config.json", **config)

    return change


def without(key: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        file = root / "unet" / "diffusion_pytorch_model.safetensors"
        save_file({k: v for k, v in load_file(file).items() if k != key}, file)

    return change


def with_value(key: str, value: Tensor) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        file = root / "unet" / "diffusion_pytorch_model.safetensors"
        save_file(load_file(file) | {key: value}, file)

    return change


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "no index": (lambda r: (r / "model_index.json").unlink(), "model_index.json: cannot read it"),
    "broken index": (lambda r: (r / "model_index.json").write_text("{"), "not a JSON file"),
    "list": (lambda r: (r / "model_index.json").write_text("[]"), "must hold an object"),
    "text": (lambda r: edit_json(r / "model_index.json", text_encoder=["transformers", "T5"]), "takes text"),
    "network": (lambda r: edit_json(r / "model_index.json", unet=["diffusers", "UNet1DModel"]), "unknown network of"),
    "decoder": (lambda r: edit_json(r / "model_index.json", vae=["diffusers", "AutoencoderDC"]), "unknown decoder of"),
    "no scheduler": (lambda r: edit_json(r / "model_index.json", scheduler=None), "names no scheduler"),
    "scheduler": (scheduler_is("EDMEulerScheduler"), "unknown scheduler 'EDMEulerScheduler'; choose one of: Cosine"),
    "betas": (scheduler_is("DDPMScheduler", beta_schedule="sigmod"), "unknown beta_schedule 'sigmod'"),
    "prediction": (scheduler_is("DDPMScheduler", prediction_type="score"), "unknown prediction_type 'score'"),
    "zero snr": (scheduler_is("DDIMScheduler", rescale_betas_zero_snr=True), "SNR with prediction_type 'epsilon'"),
    "continuous": (scheduler_is("EulerDiscreteScheduler", timestep_type="continuous"), "only 'discrete'"),
    "flow": (scheduler_is("FlowMatchEulerDiscreteScheduler", prediction_type="epsilon"), "a flow predicts the flow"),
    "text betas": (scheduler_is("DDPMScheduler", trained_betas=["a", "b"]), "betas must be numbers"),
    "steps": (scheduler_is("DDPMScheduler", num_train_timesteps=10**12), "whole number from 2 to 100000"),
    "constant betas": (scheduler_is("DDPMScheduler", trained_betas=[0.0, 0.0]), "falling sequence"),
    "no folder": (lambda r: shutil.rmtree(r / "unet"), "unet: no such folder"),
    "no weights": (lambda r: (r / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "holds no weights"),
    "damaged": (
        lambda r: (r / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99),
        "not the weights",
    ),
    "missing key": (without("conv_in.bias"), "1 missing keys in the weights, such as 'conv_in.bias'"),
    "unknown key": (with_value("extra", torch.ones(1)), "1 unexpected keys in the weights, such as 'extra'"),
    "wrong shape": (with_value("conv_in.bias", torch.ones(3)), "unet: "),
    "NaN": (with_value("conv_in.bias", torch.full((8,), float("nan"))), "holds NaN or infinity"),
    "embedding": (lambda r: edit_json(r / "unet" / "config.json", class_embed_type="timestep"), "unet: |positional"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_in_one_line(tmp_path: Path, saved: Path, case: str) -> None:
    root = tmp_path / "model"
    shutil.copytree(saved, root)
    change, message = REFUSED[case]
    change(root)
    with pytest.raises(Error, match=message) as caught:
        load_model({"type": "diffusers"}, root)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 700


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ddpm_folder(tmp_path_factory.mktemp("ddpm"), unet(), ddim())


def test_settings_and_offline_repositories(monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Error, match="needs 'path'"):
        load_model({"type": "diffusers"})
    for spec in (
        {"type": "diffusers", "id": "a/b"},
        {"type": "stable-diffusion", "prompts": str(listed(tmp_path, 1)), "n_prompts": 1},
    ):
        with pytest.raises(
            Error, match=r"offline mode is on; fetch the folders .* of https://huggingface\.co/"
        ) as caught:
            load_model(spec, offline=True)
        assert str(caught.value).isprintable() and str(tmp_path) in str(caught.value)
    assert "7f210fac9bbc55dcc6d63798d4ea25e5dc8289b6" in str(caught.value)
    assert hub.revision_of(tmp_path / "snapshots" / "abc") == "abc"


class Room:
    """Pickles to a call that asks for memory; torch's restricted reader allows it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return bytearray, (1 << 33,)


def test_bin_weights_are_read_as_data_alone(tmp_path: Path) -> None:
    folder = ddpm_folder(tmp_path / "m", unet(), ddim())
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    weights.unlink()
    torch.save(state, weights.with_suffix(".bin"))
    assert load_model({"type": "diffusers", "path": str(folder)}).shape == (3, 8, 8)
    torch.save(state | {"room": Room()}, weights.with_suffix(".bin"))
    with pytest.raises(Error, match=r"\.bin: refused, refers to '__builtin__.bytearray'") as caught:
        load_model({"type": "diffusers", "path": str(folder)})
    assert "\n" not in str(caught.value)
