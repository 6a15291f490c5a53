"""Latent diffusion (Rombach et al. 2022): LSUN-Bedroom and ImageNet-256, as imported by ``s4s import ldm``.

The networks are diffusers' ``UNet2DModel``, ``UNet2DConditionModel`` and ``VQModel``; the file is one ``.safetensors``
with the prefixes ``unet.``, ``vae.`` and ``classes.``, and a ``.json`` beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from s4s.discrete import VPDiscrete
from s4s.errors import Error, extra
from s4s.files import sha256
from s4s.models.hub import decoder, read_json
from s4s.models.model import (
    DTYPES,
    RUN,
    Guidance,
    Model,
    classes,
    freeze,
    make_denoiser,
    require_classes,
    running,
    settings,
    unconditional,
)
from s4s.models.scheduler import betas

SCHEMA = "s4s-ldm"
SCHEMA_VERSION = 1
SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195, "num_train_timesteps": 1000}
LATENT_CHANNELS = 3
DEFAULTS = {
    "guidance": 2.0,
    "classes": "uniform",
    "class_seed": 0,
    **RUN,
    "t_min": 0.0,
    "t_max": 1.0,
}


@dataclass(frozen=True)
class LDMConfig:
    """Sizes of a latent diffusion model in the CompVis layout.

    Args:
        size: height and width of a latent.
        width: channels of the U-Net's finest level; ``mult`` are the widths of all levels in units of it.
        blocks: residual blocks a level. Every level but the finest has attention.
        head_dim: width of an attention head in an unconditional U-Net.
        classes: number of class embeddings, the last of which is "no class"; 0 is unconditional.
        context: length of a class embedding.
        vq_width, vq_mult, vq_blocks: sizes of the first stage.
        codebook: number of its code vectors.
    """

    size: int = 64
    width: int = 224
    mult: tuple[int, ...] = (1, 2, 3, 4)
    blocks: int = 2
    head_dim: int = 32
    classes: int = 0
    context: int = 512
    vq_width: int = 128
    vq_mult: tuple[int, ...] = (1, 2, 4)
    vq_blocks: int = 2
    codebook: int = 8192

    @classmethod
    def from_dict(cls, data: Any) -> LDMConfig:
        """Inverse of ``dataclasses.asdict``."""
        names = {field.name for field in fields(cls)}
        if not isinstance(data, dict) or set(data) != names:
            raise Error(f"needs exactly the keys {', '.join(sorted(names))}")
        made: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in data.items()}
        for key, value in made.items():
            many = key.endswith("mult") and isinstance(value, tuple) and 2 <= len(value) <= 8
            lowest = 0 if key == "classes" else 1
            if not all(type(n) is int and lowest <= n <= 65536 for n in (value if many else (value,))):
                raise Error(f"'{key}' is not a sensible size")
        return cls(**made)


LSUN_BEDROOM = LDMConfig()
IMAGENET256 = LDMConfig(width=192, mult=(1, 2, 3, 5), classes=1001)
KINDS = {"lsun_bedroom": LSUN_BEDROOM, "imagenet256": IMAGENET256}


def networks(config: LDMConfig) -> nn.ModuleDict:
    """``unet``, ``vae`` and, with classes, ``classes``: without memory behind their tensors."""
    with extra("diffusers"):
        from diffusers import VQModel

    with torch.device("meta"):
        made = nn.ModuleDict({"unet": _unet(config)})
        made["vae"] = VQModel(
            down_block_types=("DownEncoderBlock2D",) * len(config.vq_mult),
            up_block_types=("UpDecoderBlock2D",) * len(config.vq_mult),
            block_out_channels=tuple(config.vq_width * m for m in config.vq_mult),
            layers_per_block=config.vq_blocks,
            latent_channels=LATENT_CHANNELS,
            num_vq_embeddings=config.codebook,
            scaling_factor=1.0,
        )
        if config.classes:
            made["classes"] = nn.Embedding(config.classes, config.context)
    return made


def _unet(config: LDMConfig) -> nn.Module:
    with extra("diffusers"):
        from diffusers import UNet2DConditionModel, UNet2DModel

    attention = "CrossAttn" if config.classes else "Attn"
    deeper = len(config.mult) - 1
    common = {
        "sample_size": config.size,
        "in_channels": LATENT_CHANNELS,
        "out_channels": LATENT_CHANNELS,
        "block_out_channels": tuple(config.width * m for m in config.mult),
        "layers_per_block": config.blocks,
        "down_block_types": ("DownBlock2D", *[f"{attention}DownBlock2D"] * deeper),
        "up_block_types": (*[f"{attention}UpBlock2D"] * deeper, "UpBlock2D"),
    }
    if config.classes:  # here attention_head_dim means the number of heads
        net: nn.Module = UNet2DConditionModel(**common, cross_attention_dim=config.context, attention_head_dim=1)
    else:
        net = UNet2DModel(**common, attention_head_dim=config.head_dim)
    return net


def process(t_min: float = 0.0, t_max: float = 1.0) -> VPDiscrete:
    """1000 levels, sqrt(beta) linear from 0.0015 to 0.0195."""
    return VPDiscrete((1 - betas(SCHEDULE)).cumprod(0), t_min, t_max)


def load(spec: Mapping[str, Any], weights: Path | None, *, device: str = "cpu", offline: bool = False) -> Model:
    """A model imported by ``s4s import ldm``."""
    if weights is None:
        raise Error("an ldm model needs its imported weights: run `s4s import ldm` on the published file first")
    chosen = settings(spec, DEFAULTS)
    record, nets = _read(Path(weights))
    config = LDMConfig.from_dict(record["config"])
    dtype = DTYPES[chosen["dtype"]]
    freeze(nets.to(dtype), device, chosen["channels_last"])
    count = max(config.classes - 1, 0)
    require_classes(spec, count)
    guidance = None
    if count and chosen["guidance"] is not None:
        guidance = Guidance(chosen["guidance"], torch.tensor([count]))

    def network(x: Tensor, model_time: Tensor, labels: Tensor | None) -> Tensor:
        context = {} if labels is None else {"encoder_hidden_states": nets["classes"](labels)[:, None]}
        out: Tensor = nets["unet"](x, model_time, **context).sample
        return out

    run = running(network, chosen)
    noise_process = process(chosen["t_min"], chosen["t_max"])
    return Model(
        noise_process,
        (LATENT_CHANNELS, config.size, config.size),
        make_denoiser(noise_process, run, "eps", dtype=dtype, conditional=bool(count), guidance=guidance),
        decoder(nets["vae"], dtype),
        classes(chosen["classes"], range(count), chosen["class_seed"]) if count else unconditional,
        _facts(chosen, record, count),
    )


def _facts(chosen: Mapping[str, Any], record: Mapping[str, Any], count: int) -> dict[str, Any]:
    plan = {"plan": chosen["classes"], "seed": chosen["class_seed"], "count": count, "null": count}
    return {
        "type": "ldm",
        "kind": record["kind"],
        "weights_sha256": record["weights"]["sha256"],
        "ema": record["ema"],
        "source": record["source"],
        **{key: chosen[key] for key in RUN},
        "guidance": chosen["guidance"] if count else None,
        "classes": plan if count else None,
        "decoder": "quantises to the codebook first, as CompVis does",
    }


def _read(path: Path) -> tuple[dict[str, Any], nn.ModuleDict]:
    """The record beside the weights, and the networks with exactly the weights it describes."""
    record = read_json(path.with_suffix(".json"))
    if (record.get("schema"), record.get("version")) != (SCHEMA, SCHEMA_VERSION):
        raise Error(f"{path.with_suffix('.json')}: not an {SCHEMA} file of version {SCHEMA_VERSION}; import it again")
    try:
        if sha256(path) != record["weights"]["sha256"]:
            raise Error("not the weights that the .json file beside it describes")
        nets = networks(LDMConfig.from_dict(record["config"]))
        nets.load_state_dict(load_file(path), assign=True)
    except OSError as error:
        raise Error(f"{path}: cannot read the weights ({error.strerror}); import them first") from error
    except (Error, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise Error(f"{path}: {str(error).splitlines()[0]}; import the model again") from error
    return record, nets


def dump_record(config: LDMConfig, facts: Mapping[str, Any]) -> str:
    """The text of the JSON file beside the weights."""
    head = {"schema": SCHEMA, "version": SCHEMA_VERSION, "config": asdict(config)}
    return json.dumps(head | dict(facts), indent=2) + "\n"
