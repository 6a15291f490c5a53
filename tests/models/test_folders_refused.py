"""Model folders that are refused, each in one line that is true of it, before weights are read."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pipelines import autoencoder, ddim, ddpm_folder, diffusers, edit_json, listed, transformer, unet
from stable import stable as stable

from s4s.errors import Error
from s4s.models import diffusers_model, load_model, stable_diffusion

UNET = unet()


def changed(part: str, **config: Any) -> Callable[[Path], None]:
    return lambda root: edit_json(root / part / "config.json", **config)


def indexed(**parts: Any) -> Callable[[Path], None]:
    return lambda root: edit_json(root / "model_index.json", **parts)


UNFIT: dict[str, tuple[Callable[[Path], None], str]] = {
    "inpainting": (changed("unet", in_channels=9), "takes 9 channels and returns 4, as for inpainting"),
    "SDXL": (
        indexed(
            _class_name="StableDiffusionXLPipeline", text_encoder_2=["transformers", "CLIPTextModelWithProjection"]
        ),
        "StableDiffusionXLPipeline.* it has a text_encoder_2 as well",
    ),
    "SD3": (
        indexed(_class_name="StableDiffusion3Pipeline", unet=None, transformer=["diffusers", "SD3Transformer2DModel"]),
        "StableDiffusion3Pipeline.* its unet is missing, needs UNet2DConditionModel",
    ),
    "PixArt": (
        indexed(_class_name="PixArtAlphaPipeline", unet=None, text_encoder=["transformers", "T5EncoderModel"]),
        "PixArtAlphaPipeline.* its unet is missing",
    ),
    "T5": (
        indexed(text_encoder=["transformers", "T5EncoderModel"]),
        "its text_encoder is T5EncoderModel, needs CLIP",
    ),
    "controlnet": (indexed(controlnet=["diffusers", "ControlNetModel"]), "has a controlnet as well"),
    "motion": (indexed(motion_adapter=["diffusers", "MotionAdapter"]), "has a motion_adapter as well"),
    "refiner": (changed("unet", addition_embed_type="text_time"), "is also told sizes or pooled text"),
    "LCM": (changed("unet", time_cond_proj_dim=8), "is also told the guidance"),
    "upscaler": (changed("unet", num_class_embeds=1000), "is also told classes"),
    "width": (changed("unet", cross_attention_dim=16), "takes embeddings of 16 numbers, the text encoder makes 8"),
    "latents": (changed("vae", latent_channels=8), "vae: the AutoencoderKL of these sizes cannot be called"),
    "another network": (changed("unet", _class_name="UNet2DModel"), "of a 'UNet2DModel', but model_index.json names a"),
    "other size": (changed("unet", sample_size=[8, 8, 8]), r"sample_size = \[8, 8, 8\] must be a positive number or"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_stable_diffusion_cannot_be_is_said_in_one_line(stable: Any, tmp_path: Path, case: str) -> None:
    root = tmp_path / "sd"
    shutil.copytree(stable[0], root)
    change, message = UNFIT[case]
    change(root)
    spec = {"type": "stable-diffusion", "prompts": str(listed(tmp_path, 1)), "n_prompts": 1, "path": str(root)}
    for read in (load_model, lambda spec: stable_diffusion.check(spec, root)):
        with pytest.raises(Error, match=message) as caught:
            read(spec)
        assert str(caught.value).isprintable()
    with pytest.raises(Error) as caught:
        load_model({"type": "diffusers", "path": str(root)})
    assert "use type: stable-diffusion" not in str(caught.value) or case in ("width", "latents", "other size")


def test_each_type_sends_to_the_other_what_the_other_takes(stable: Any, tmp_path: Path) -> None:
    with pytest.raises(Error, match="StableDiffusionPipeline takes text; use type: stable-diffusion"):
        load_model({"type": "diffusers", "path": str(stable[0])})
    root = ddpm_folder(tmp_path / "ddpm", UNET, ddim())
    spec = {"type": "stable-diffusion", "prompts": str(listed(tmp_path, 1)), "n_prompts": 1, "path": str(root)}
    with pytest.raises(Error, match="DDPMPipeline: it takes no text; use type: diffusers"):
        load_model(spec)


CHANNELS = [(6, 3), (3, 1), (4, 3), (3, 9), (1, 3)]


@pytest.mark.parametrize(("into", "out"), CHANNELS)
def test_networks_of_other_output_channels(into: int, out: int, tmp_path: Path) -> None:
    root = ddpm_folder(tmp_path / "m", unet(in_channels=into, out_channels=out), ddim())
    for read in (lambda: load_model({"type": "diffusers"}, root), lambda: diffusers_model.check({}, root)):
        with pytest.raises(Error, match=f"unet: a UNet2DModel that takes {into} channels and returns {out}"):
            read()


def test_sizes_that_the_network_cannot_be_called_on(tmp_path: Path) -> None:
    root = ddpm_folder(tmp_path / "m", UNET, ddim())
    edit_json(root / "unet" / "config.json", sample_size=7)
    with pytest.raises(Error, match="unet: the UNet2DModel of these sizes cannot be called") as caught:
        load_model({"type": "diffusers"}, root)
    assert str(caught.value).isprintable()
    diffusers.DiTPipeline(transformer(), autoencoder(), ddim()).save_pretrained(tmp_path / "dit")
    with pytest.raises(Error, match="transformer: made for sample_size 8, not 16; leave sample_size out"):
        load_model({"type": "diffusers", "sample_size": 16}, tmp_path / "dit")
    assert load_model({"type": "diffusers", "sample_size": [8, 8]}, tmp_path / "dit").shape == (4, 8, 8)
    edit_json(tmp_path / "dit" / "transformer" / "config.json", norm_type="ada_norm_single")
    with pytest.raises(Error, match=r"the DiTTransformer2DModel of these sizes cannot be called: .*ada_norm"):
        diffusers_model.check({}, tmp_path / "dit")


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "no channels": (lambda r: edit_json(r / "unet" / "config.json", in_channels=None), "in_channels = None must be a"),
    "size 0": (
        lambda r: edit_json(r / "unet" / "config.json", sample_size=0),
        "sample_size = 0 must be a positive number or",
    ),
    "groups": (lambda r: edit_json(r / "unet" / "config.json", norm_num_groups=3), "divisible by num_groups"),
    "short name": (
        lambda r: edit_json(r / "model_index.json", scheduler=["diffusers", "DDPM"]),
        "unknown scheduler 'DDPM'",
    ),
    "no betas": (lambda r: edit_json(r / "scheduler" / "scheduler_config.json", trained_betas=[]), "at least two"),
    "nothing": (lambda r: edit_json(r / "model_index.json", unet=[None, None]), "unknown network of"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_configurations(case: str, tmp_path: Path) -> None:
    root = ddpm_folder(tmp_path / "m", UNET, ddim())
    change, message = ODD[case]
    change(root)
    for read in (lambda: load_model({"type": "diffusers"}, root), lambda: diffusers_model.check({}, root)):
        with pytest.raises(Error, match=message) as caught:
            read()
        assert str(caught.value).isprintable()
