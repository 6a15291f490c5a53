"""Tiny random pipelines of every class a fitted scheduler has to run in, ready to be called."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from pipelines import SIZES, autoencoder, ddim, diffusers, transformer, unet
from torch import Tensor

import s4s

pytest.importorskip("transformers")
StableAudioProjectionModel = pytest.importorskip("diffusers.pipelines.stable_audio").StableAudioProjectionModel
DDPM_BETAS = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
SD_BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2


@dataclass
class Case:
    """A pipeline, its network, its noise process, and what to call it with."""

    pipe: Any
    net: Any
    process: Any
    prediction: str = "eps"
    call: dict[str, Any] = field(default_factory=dict)
    latents: tuple[int, ...] | None = None
    told: Callable[[Tensor], Tensor] | None = None  # of a flow's time: what its network is told; else 1000 times it

    def __call__(self, steps: int, **options: Any) -> Any:
        if self.latents is not None:
            shape, dtype = self.latents, next(self.net.parameters()).dtype
            options = {"latents": torch.randn(shape, generator=torch.Generator().manual_seed(5)).to(dtype)} | options
        self.pipe.set_progress_bar_config(disable=True)
        return self.pipe(num_inference_steps=steps, **self.call | options)


def vp(betas: Tensor = DDPM_BETAS) -> Any:
    return s4s.VPDiscrete((1 - betas).cumprod(0))


def embeddings(*shape: int, seed: int = 7) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def ddpm() -> Case:
    net = unet(in_channels=3, out_channels=3)
    return Case(diffusers.DDPMPipeline(net, ddim()), net, vp(), call={"batch_size": 2, "output_type": "np"})


def ldm() -> Case:
    net = unet(in_channels=3, out_channels=3)
    vq = diffusers.VQModel(block_out_channels=(8,), norm_num_groups=4, sample_size=8, num_vq_embeddings=16).eval()
    pipe = diffusers.LDMPipeline(vq, net, ddim())
    return Case(pipe, net, vp(), call={"batch_size": 2, "output_type": "np"})


def dit() -> Case:
    net = transformer(out_channels=8)
    pipe = diffusers.DiTPipeline(net, autoencoder(), ddim())
    return Case(pipe, net, vp(), call={"class_labels": [1, 3], "guidance_scale": 1.0, "output_type": "np"})


def sdxl() -> Case:
    torch.manual_seed(4)
    kinds = {"down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
             "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D")}  # fmt: skip
    net = diffusers.UNet2DConditionModel(
        **SIZES, **kinds, in_channels=4, out_channels=4, cross_attention_dim=8, attention_head_dim=2,
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 8,
    ).eval()  # fmt: skip
    scheduler = ddim(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    pipe = diffusers.StableDiffusionXLPipeline(autoencoder(), None, None, None, None, net, scheduler)
    call = {"prompt_embeds": embeddings(2, 5, 8), "negative_prompt_embeds": embeddings(2, 5, 8, seed=8),
            "pooled_prompt_embeds": embeddings(2, 8), "negative_pooled_prompt_embeds": embeddings(2, 8, seed=8),
            "height": 16, "width": 16, "guidance_scale": 3.0, "output_type": "latent"}  # fmt: skip
    return Case(pipe, net, vp(SD_BETAS), call=call, latents=(2, 4, 8, 8))


def sd3() -> Case:
    torch.manual_seed(5)
    net = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=8,
        num_attention_heads=2, joint_attention_dim=8, caption_projection_dim=16, pooled_projection_dim=8,
        pos_embed_max_size=8,
    ).eval()  # fmt: skip
    pipe = diffusers.StableDiffusion3Pipeline(
        net, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), autoencoder(shift_factor=0.1), *[None] * 6
    )
    call = {"prompt_embeds": embeddings(2, 5, 8), "negative_prompt_embeds": embeddings(2, 5, 8, seed=8),
            "pooled_prompt_embeds": embeddings(2, 8), "negative_pooled_prompt_embeds": embeddings(2, 8, seed=8),
            "height": 16, "width": 16, "guidance_scale": 3.0, "output_type": "latent"}  # fmt: skip
    return Case(pipe, net, s4s.Flow(), "flow", call, (2, 4, 8, 8))


def flux() -> Case:
    torch.manual_seed(6)
    net = diffusers.FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, pooled_projection_dim=8, axes_dims_rope=(2, 2, 4),
    ).eval()  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    pipe = diffusers.FluxPipeline(scheduler, autoencoder(shift_factor=0.1), *[None] * 4, net)
    call = {"prompt_embeds": embeddings(2, 5, 8), "pooled_prompt_embeds": embeddings(2, 8), "height": 16, "width": 16,
            "output_type": "latent"}  # fmt: skip
    return Case(pipe, net, s4s.Flow(), "flow", call, (2, 16, 16), told=lambda t: t)


def pixart() -> Case:
    torch.manual_seed(8)
    net = diffusers.PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1, norm_num_groups=4,
        cross_attention_dim=16, sample_size=8, caption_channels=8, use_additional_conditions=False,
    ).eval()  # fmt: skip
    scheduler = diffusers.DPMSolverMultistepScheduler()
    pipe = diffusers.PixArtAlphaPipeline(None, None, autoencoder(), net, scheduler)
    return Case(pipe, net, vp(), call=with_masks(16), latents=(2, 4, 8, 8))


def sana() -> Case:
    torch.manual_seed(9)
    net = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=4, num_layers=1, sample_size=16,
        num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8,
    ).eval()  # fmt: skip
    half = {"block_types": ("ResBlock",) * 2, "block_out_channels": (8, 8), "layers_per_block": (1, 1),
            "qkv_multiscales": ((), ())}  # fmt: skip
    both = {f"{part}_{key}": value for part in ("encoder", "decoder") for key, value in half.items()}
    vae = diffusers.AutoencoderDC(latent_channels=4, attention_head_dim=2, **both).eval()
    pipe = diffusers.SanaPipeline(None, None, vae, net, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0))
    return Case(pipe, net, s4s.Flow(), "flow", with_masks(32), (2, 4, 16, 16))


def wan() -> Case:
    torch.manual_seed(10)
    net = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, text_dim=8, freq_dim=8, ffn_dim=16,
        num_layers=1, rope_max_seq_len=32,
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False], latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4, scale_factor_temporal=4, scale_factor_spatial=2,
    ).eval()  # fmt: skip
    pipe = diffusers.WanPipeline(None, None, vae, diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), net)
    call = {"prompt_embeds": embeddings(2, 5, 8), "negative_prompt_embeds": embeddings(2, 5, 8, seed=8), "height": 16,
            "width": 16, "num_frames": 1, "guidance_scale": 3.0, "output_type": "latent"}  # fmt: skip
    return Case(pipe, net, s4s.Flow(), "flow", call, (2, 4, 1, 8, 8))


def ltx() -> Case:
    torch.manual_seed(11)
    net = diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=8, cross_attention_dim=16,
        num_layers=1, caption_channels=8,
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
    ).eval()  # fmt: skip
    pipe = diffusers.LTXPipeline(diffusers.FlowMatchEulerDiscreteScheduler(), vae, None, None, net)
    call = with_masks(64) | {"num_frames": 9}
    del call["use_resolution_binning"]
    return Case(pipe, net, s4s.Flow(), "flow", call, (2, 8, 8))


def qwen() -> Case:
    torch.manual_seed(12)
    net = diffusers.QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=8, axes_dims_rope=(2, 2, 4),
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderKLQwenImage(
        base_dim=4, z_dim=4, dim_mult=[1, 1], num_res_blocks=1, temperal_downsample=[False], latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    ).eval()  # fmt: skip
    pipe = diffusers.QwenImagePipeline(diffusers.FlowMatchEulerDiscreteScheduler(), vae, None, None, net)
    masks = {"prompt_embeds_mask": torch.ones(2, 5).long(), "negative_prompt_embeds_mask": torch.ones(2, 5).long()}
    call = {"prompt_embeds": embeddings(2, 5, 8), "negative_prompt_embeds": embeddings(2, 5, 8, seed=8), "height": 16,
            "width": 16, "true_cfg_scale": 3.0, "output_type": "latent"}  # fmt: skip
    return Case(pipe, net, s4s.Flow(), "flow", call | masks, (2, 16, 16), told=lambda t: t)


def stable_audio() -> Case:
    pytest.importorskip("torchsde")  # which diffusers' scheduler of it asks for
    torch.manual_seed(14)
    net = diffusers.StableAudioDiTModel(
        sample_size=6, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=2,
        num_key_value_attention_heads=1, cross_attention_dim=8, time_proj_dim=8, global_states_input_dim=16,
        cross_attention_input_dim=8,
    ).eval()  # fmt: skip
    vae = diffusers.AutoencoderOobleck(
        encoder_hidden_size=4, downsampling_ratios=[1, 2], channel_multiples=[1, 2], decoder_channels=4,
        decoder_input_channels=4, audio_channels=2, sampling_rate=4,
    ).eval()  # fmt: skip
    ends = StableAudioProjectionModel(text_encoder_dim=8, conditioning_dim=8, min_value=0, max_value=8).eval()
    scheduler = diffusers.CosineDPMSolverMultistepScheduler()
    pipe = diffusers.StableAudioPipeline(vae, None, ends, None, net, scheduler)
    call = {"prompt_embeds": embeddings(2, 5, 8), "negative_prompt_embeds": embeddings(2, 5, 8, seed=8),
            "guidance_scale": 3.0, "output_type": "latent"}  # fmt: skip
    process = s4s.Cosine(*(2 / math.pi * math.atan(level) for level in (0.3, 500.0)))
    return Case(pipe, net, process, "v", call, (2, 4, 6), told=lambda t: t)


def zimage() -> Case:
    torch.manual_seed(13)
    net = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=16, n_layers=1, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=8,
        axes_dims=[2, 2, 4], axes_lens=[64, 32, 32],
    ).eval()  # fmt: skip
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe = diffusers.ZImagePipeline(scheduler, autoencoder(shift_factor=0.1), None, None, net)
    call = {"prompt_embeds": list(embeddings(2, 5, 8)), "negative_prompt_embeds": list(embeddings(2, 5, 8, seed=8)),
            "height": 16, "width": 16, "guidance_scale": 3.0, "output_type": "latent"}  # fmt: skip
    return Case(pipe, net, s4s.Flow(), "flow", call, (2, 4, 8, 8), told=lambda t: 1 - t)


def with_masks(size: int) -> dict[str, Any]:
    """Embeddings as PixArt and Sana take them."""
    masks = {"prompt_attention_mask": torch.ones(2, 5), "negative_prompt_attention_mask": torch.ones(2, 5)}
    embeds = {"prompt_embeds": embeddings(2, 5, 8), "negative_prompt_embeds": embeddings(2, 5, 8, seed=8)}
    rest = {"negative_prompt": None, "height": size, "width": size, "guidance_scale": 3.0, "output_type": "latent"}
    return {**masks, **embeds, **rest, "use_resolution_binning": False}


TINY: dict[str, Callable[[], Case]] = {
    "DDPM": ddpm, "LDM": ldm, "DiT": dit, "SDXL": sdxl, "SD3": sd3, "Flux": flux, "PixArt": pixart, "Sana": sana,
    "Wan": wan, "LTX": ltx, "Qwen-Image": qwen, "Z-Image": zimage,
    "Stable Audio": stable_audio,
}  # fmt: skip
