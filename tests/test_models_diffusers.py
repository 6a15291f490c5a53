"""Models in the diffusers layout: your own folder, and Stable Diffusion, against diffusers' own pipelines."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import s4s
from s4s.errors import Error
from s4s.models import captions, hub, load_model
from s4s.process import Flow, VPDiscrete

diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

SIZES = {"sample_size": 8, "block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
PLAIN = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}


def unet(**options: Any) -> Any:
    torch.manual_seed(0)
    return diffusers.UNet2DModel(**SIZES, **PLAIN, attention_head_dim=4, **options).eval().requires_grad_(False)


def transformer(**options: Any) -> Any:
    torch.manual_seed(1)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 1, "sample_size": 8, "norm_num_groups": 4}
    net = diffusers.DiTTransformer2DModel(**sizes, in_channels=4, num_embeds_ada_norm=6, **options)
    return net.eval().requires_grad_(False)


def autoencoder() -> Any:
    torch.manual_seed(2)
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.AutoencoderKL(**sizes, **kinds).eval().requires_grad_(False)


def ddim(**options: Any) -> Any:
    return diffusers.DDIMScheduler(clip_sample=False, **{"set_alpha_to_one": False} | options)


def ddpm_folder(folder: Path, net: Any, scheduler: Any) -> Path:
    diffusers.DDPMPipeline(net, scheduler).save_pretrained(folder)
    return folder


def states(n: int, channels: int, seed: int = 0) -> Tensor:
    return torch.randn(n, channels, 8, 8, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5 * b.abs().max().item(), rtol=1e-5, check_dtype=False)


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


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
    found = s4s.sample(s4s.solver("ddim", levels), model.denoiser(None), model.process.to_edm(x.double(), times[0]))
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
    start = model.process.to_edm(y.double(), times[0])
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
    "scheduler": (scheduler_is("EDMEulerScheduler"), "unknown scheduler 'EDMEulerScheduler'; choose one of: DDIM"),
    "betas": (scheduler_is("DDPMScheduler", beta_schedule="sigmoid"), "unknown beta_schedule 'sigmoid'"),
    "prediction": (scheduler_is("DDPMScheduler", prediction_type="score"), "unknown prediction_type 'score'"),
    "zero snr": (scheduler_is("DDIMScheduler", rescale_betas_zero_snr=True), "rescale_betas_zero_snr is not supported"),
    "continuous": (scheduler_is("EulerDiscreteScheduler", timestep_type="continuous"), "only 'discrete'"),
    "flow": (scheduler_is("FlowMatchEulerDiscreteScheduler", prediction_type="epsilon"), "a flow predicts the flow"),
    "text betas": (scheduler_is("DDPMScheduler", trained_betas=["a", "b"]), "betas must be numbers"),
    "steps": (scheduler_is("DDPMScheduler", num_train_timesteps=10**12), "whole number from 2 to 100000"),
    "constant betas": (scheduler_is("DDPMScheduler", trained_betas=[0.0, 0.0]), "falling sequence"),
    "no folder": (lambda r: shutil.rmtree(r / "unet"), "unet: no such folder"),
    "no weights": (lambda r: (r / "unet" / "diffusion_pytorch_model.safetensors").unlink(), "not the weights"),
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


def test_a_repository_without_safetensors_is_fetched_once_more(tmp_path: Path, monkeypatch: Any) -> None:
    root = tmp_path / "snapshots" / "abc"
    asked: list[Any] = []

    def snapshot(id: str, **options: Any) -> str:
        asked.append((id, options["revision"], options["allow_patterns"]))
        (root / "unet").mkdir(parents=True, exist_ok=True)
        (root / "unet" / "config.json").write_text("{}")
        return str(root)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert hub.folder("a/b", "abc", ["unet"]) == root
    assert [names[1] for *_, names in asked] == ["unet/*.safetensors", "unet/*.bin"]
    (root / "unet" / "x.safetensors").touch()
    asked.clear()
    assert hub.folder("a/b", "abc", ["unet"]) == root and len(asked) == 1
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *a, **k: 1 / 0)
    with pytest.raises(Error, match="cannot be fetched: division by zero; fetch the folders unet"):
        hub.folder("a/b", "abc", ["unet"])


# --- Stable Diffusion


def listed(folder: Path, n: int) -> Path:
    path = folder / "prompts.txt"
    path.write_text("".join(f"{'abc'[i % 3]} {'xyz'[i % 2]}{i} \n" for i in range(n)))
    return path


@pytest.fixture(scope="module")
def stable(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    root = tmp_path_factory.mktemp("stable")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    names = [*letters, *(f"{c}</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    source = root / "words"
    source.mkdir()
    (source / "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}))
    (source / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(source, model_max_length=12)
    torch.manual_seed(3)
    config = transformers.CLIPTextConfig(
        vocab_size=len(names), hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=12, bos_token_id=72, eos_token_id=73, pad_token_id=73,
    )  # fmt: skip
    text = transformers.CLIPTextModel(config).eval()
    kinds = {
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }
    net = diffusers.UNet2DConditionModel(
        **SIZES, **kinds, in_channels=4, out_channels=4, cross_attention_dim=8, attention_head_dim=2
    )
    scheduler = ddim(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1)
    pipe = diffusers.StableDiffusionPipeline(
        vae=autoencoder(), text_encoder=text, tokenizer=tokenizer, unet=net, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(root)
    return root, pipe


def test_stable_diffusion_agrees_with_its_pipeline(stable: Any, tmp_path: Path) -> None:
    root, pipe = stable
    prompts = listed(tmp_path, 3)
    model = load_model({"type": "stable-diffusion", "prompts": str(prompts), "n_prompts": 3}, root)
    lines = prompts.read_text().removesuffix("\n").split("\n")
    x = states(3, 4)
    kwargs = {"num_inference_steps": 4, "guidance_scale": 7.5, "latents": x}
    latents = pipe(lines, output_type="latent", **kwargs).images
    images = pipe(lines, output_type="pt", **kwargs).images
    times = [*((pipe.scheduler.timesteps + 1) / 1000).tolist(), 1 / 1000]
    levels = model.process.level(torch.tensor(times, dtype=torch.float64))
    denoise = model.denoiser(model.condition(range(3)))
    found = s4s.sample(s4s.solver("ddim", levels), denoise, model.process.to_edm(x.double(), times[0]))
    found = model.process.from_edm(found, levels[-1])
    close(found, latents)
    close((model.decode(found) / 2 + 0.5).clamp(0, 1), images)


def test_stable_diffusion_keeps_real_times_and_one_call(stable: Any, tmp_path: Path, monkeypatch: Any) -> None:
    root, _ = stable
    model = load_model(
        {"type": "stable-diffusion", "prompts": str(listed(tmp_path, 2)), "n_prompts": 2, "guidance": 3.0}, root
    )
    seen: list[Any] = []
    forward = diffusers.UNet2DConditionModel.forward
    monkeypatch.setattr(
        diffusers.UNet2DConditionModel,
        "forward",
        lambda self, x, t, **k: seen.append((len(x), t, k)) or forward(self, x, t, **k),
    )
    embeddings = model.condition(range(2))
    x = states(4, 4).requires_grad_()
    model.denoiser(embeddings)(x, model.process.level(0.50037)).sum().backward()
    (size, times, options) = seen[0]
    assert len(seen) == 1 and size == 8 and times.dtype == torch.float32
    assert times.tolist() == pytest.approx([499.37] * 8)
    assert torch.equal(options["encoder_hidden_states"][4:], torch.cat([embeddings, embeddings]))
    assert x.grad is not None and (x.grad != 0).any()


def test_embeddings_depend_on_the_index_alone(stable: Any, tmp_path: Path) -> None:
    model = load_model({"type": "stable-diffusion", "prompts": str(listed(tmp_path, 20)), "n_prompts": 20}, stable[0])
    whole = model.condition(range(45))
    assert whole is not None and whole.shape == (45, 12, 8)
    pieces = [model.condition(range(a, b)) for a, b in ((0, 1), (1, 15), (15, 33), (33, 45))]
    assert torch.equal(torch.cat(pieces), whole)  # type: ignore[arg-type]
    assert torch.equal(whole[20:40], whole[:20]) and not torch.equal(whole[0], whole[1])


def test_more_samples_than_prompts_are_on_record(stable: Any, tmp_path: Path) -> None:
    model = load_model({"type": "stable-diffusion", "prompts": str(listed(tmp_path, 4)), "n_prompts": 4}, stable[0])
    for indices, repeat in ((range(4), False), (range(6, 10), False), (range(5), True), (range(50_000, 50_005), True)):
        facts = model.facts_of(indices)
        assert facts["prompts_repeat"] is repeat and facts["prompts"]["rule"].endswith(
            "sample i gets prompt i modulo n"
        )
        assert json.loads(json.dumps(facts)) == facts
    assert "prompts_repeat" not in model.facts


def test_stable_diffusion_says_what_it_is(stable: Any, tmp_path: Path) -> None:
    spec = {"type": "stable-diffusion", "prompts": str(listed(tmp_path, 2)), "n_prompts": 2, "dtype": "bfloat16"}
    v15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    for id, version in ((None, "v1.4"), (v15, "v1.5")):
        facts = load_model(spec | ({"id": id} if id else {}), stable[0]).facts
        assert facts["version"].startswith(version) and facts["licence"] == "CreativeML OpenRAIL-M"
        assert facts["prompts"]["n"] == 2 and facts["prompts"]["known_as"] is None
        assert json.loads(json.dumps(facts)) == facts
    with pytest.raises(Error, match=r"holds 2 captions; 3 are asked for"):
        load_model(spec | {"n_prompts": 3}, stable[0])
    damaged = tmp_path / "damaged"
    shutil.copytree(stable[0], damaged)
    shutil.rmtree(damaged / "tokenizer")
    with pytest.raises(Error, match="CLIPTokenizer"):
        load_model(spec, damaged)


def as_published(root: Path) -> None:
    """Rename the tensors to what was usual in 2022, and store them as pickles."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    file = root / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = {}
    for key, value in load_file(file).items():
        for ours, theirs in old.items():
            key = key.replace(f"attentions.0.{ours}.", f"attentions.0.{theirs}.")
        tensors[key] = value
    file.unlink()
    torch.save(tensors, root / "vae" / "diffusion_pytorch_model.bin")
    file = root / "text_encoder" / "model.safetensors"
    tensors = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(file).items()}
    file.unlink()
    tensors["text_model.embeddings.position_ids"] = torch.arange(12)[None]
    torch.save(tensors, root / "text_encoder" / "pytorch_model.bin")


def test_the_layout_of_2022_loads_alike_and_its_pickles_run_nothing(
    stable: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "old"
    shutil.copytree(stable[0], root)
    as_published(root)
    spec = {"type": "stable-diffusion", "prompts": str(listed(tmp_path, 2)), "n_prompts": 2}
    new, old = load_model(spec, stable[0]), load_model(spec, root)
    assert torch.equal(new.condition(range(2)), old.condition(range(2)))  # type: ignore[arg-type]
    assert torch.equal(new.decode(states(1, 4)), old.decode(states(1, 4)))
    for part, name in (("vae", "diffusion_pytorch_model.bin"), ("text_encoder", "pytorch_model.bin")):
        honest = (root / part / name).read_bytes()
        torch.save({"evil": Gadget()}, root / part / name)
        with pytest.raises(Error, match=f"{part}: not the weights"):
            load_model(spec, root)
        (root / part / name).write_bytes(honest)
    assert not (tmp_path / "executed").exists()


class Gadget:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


# --- captions


def test_captions_are_the_first_in_file_order_and_have_a_hash(tmp_path: Path) -> None:
    data = {"annotations": [{"image_id": 9 - i, "caption": f"caption {i}\n"} for i in range(5)]}
    path = tmp_path / "captions.json"
    path.write_text(json.dumps(data))
    found = captions.prompts(str(path), 3)
    assert found == ["caption 0 ", "caption 1 ", "caption 2 "]
    text = tmp_path / "list.txt"
    text.write_bytes(b"caption 0 \ncaption 1 \ncaption 2 \n")
    assert captions.prompts(str(text), 3) == found
    assert captions.sha256(found) == hub.sha256(text)
    assert captions.facts("x", found)["sha256"] == hub.sha256(text)


def test_the_coco_list_is_fetched_and_checked(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("S4S_CACHE", str(tmp_path))
    with pytest.raises(Error, match=r"coco_captions\.txt: cannot fetch https://.*edabd2a5"):
        captions.prompts("coco", 5, offline=True)
    (tmp_path / "coco_captions.txt").write_text("not it\n")
    with pytest.raises(Error, match="has SHA-256"):
        captions.prompts("coco", 5, offline=True)
    known = captions.CaptionList("https://localhost/list.txt", captions.sha256(["a", "b"]), 2)
    monkeypatch.setattr(captions, "COCO_30K", known)
    (tmp_path / "list.txt").write_text("a\nb\n")
    assert captions.prompts("coco", 2, offline=True) == ["a", "b"]
    assert captions.facts("coco", ["a", "b"])["known_as"]


def test_damaged_caption_files_are_refused(tmp_path: Path) -> None:
    for name, data, message in (
        ("a.json", b"{", "not a COCO caption file"),
        ("b.json", b'{"annotations": [{"caption": 3}]}', "not a COCO caption file"),
        ("c.txt", b"\xff\xfe", "not UTF-8"),
        ("d.txt", b"a\n", "holds 1 captions; 2 are asked for"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(Error, match=message):
            captions.prompts(str(tmp_path / name), 2)
    with pytest.raises(Error, match="cannot read the prompts"):
        captions.prompts(str(tmp_path / "none.txt"), 1)
