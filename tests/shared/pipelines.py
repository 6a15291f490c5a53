"""Small pipelines in the diffusers layout, of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers")


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


def autoencoder(**options: Any) -> Any:
    torch.manual_seed(2)
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.AutoencoderKL(**sizes, **kinds, **options).eval().requires_grad_(False)


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


def listed(folder: Path, n: int) -> Path:
    """A file of ``n`` prompts."""
    path = folder / "prompts.txt"
    path.write_text("".join(f"{'abc'[i % 3]} {'xyz'[i % 2]}{i} \n" for i in range(n)))
    return path


def sharper(net: Any, factor: float) -> Any:
    """A random network whose outputs depend more on its input: weights of matrices times a factor."""
    with torch.no_grad():
        for value in net.parameters():
            if value.ndim > 1:
                value.mul_(factor)
    return net
