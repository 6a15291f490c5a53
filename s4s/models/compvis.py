"""Names of the CompVis latent diffusion networks: where each tensor of diffusers' networks lies in a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from s4s.models.ldm import LDMConfig

# Names inside a block, ours -> theirs.
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "qkv", "to_k": "qkv", "to_v": "qkv", "to_out.0": "proj_out"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
VAE_RESNET = {"conv_shortcut": "nin_shortcut"}
BLOCK = re.compile(r"(.*?(resnets|attentions|downsamplers|upsamplers)\.\d+)\.(.+)")


@dataclass(frozen=True)
class Source:
    """Where a tensor comes from.

    Args:
        name: of theirs.
        ones: trailing axes of length 1 that theirs has and ours has not: a 1x1 convolution used as a matrix.
        part: 0, 1, 2 for q, k, v inside a joint qkv, which is stored head by head; None for a whole tensor.
        head_dim: width of a head of a joint qkv.
    """

    name: str
    ones: int = 0
    part: int | None = None
    head_dim: int = 0

    def shape(self, ours: tuple[int, ...]) -> tuple[int, ...]:
        """What theirs must have, from the shape of ours."""
        rows = ours[0] if self.part is None else 3 * ours[0]
        return (rows, *ours[1:], *(1,) * self.ones)

    def read(self, theirs: Tensor, ours: tuple[int, ...]) -> Tensor:
        """Ours, from theirs."""
        if self.part is not None:
            theirs = theirs.reshape(-1, 3, self.head_dim, *theirs.shape[1:])[:, self.part]
        return theirs.reshape(ours).clone()


def unet_source(config: LDMConfig) -> Callable[[str], Source]:
    """Our name in the U-Net -> its source, without the prefix of the checkpoint."""
    blocks = _unet_blocks(config)

    def source(key: str) -> Source:
        base, _, leaf = key.rpartition(".")
        found = BLOCK.fullmatch(base)
        if found is None:
            return Source(f"{blocks[base]}.{leaf}")
        block, kind, inner = found.groups()
        if kind == "attentions" and not config.classes:
            joint = inner in ("to_q", "to_k", "to_v")
            part = "qkv".index(inner[-1]) if joint else None
            ones = 1 if leaf == "weight" and inner != "group_norm" else 0
            return Source(f"{blocks[block]}.{ATTENTION[inner]}.{leaf}", ones, part, config.head_dim)
        names = {"resnets": RESNET, "downsamplers": {"conv": "op"}}.get(kind, {})
        return Source(f"{blocks[block]}.{names.get(inner, inner)}.{leaf}")

    return source


def _unet_blocks(config: LDMConfig) -> dict[str, str]:
    """Blocks and single layers of our U-Net -> theirs, which are numbered through."""
    names = {
        "conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2", "mid_block.resnets.0": "middle_block.0",
        "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2",
        "conv_norm_out": "out.0", "conv_out": "out.2",
    }  # fmt: skip
    levels = len(config.mult)
    n = 1
    for level in range(levels):
        for block in range(config.blocks):
            names[f"down_blocks.{level}.resnets.{block}"] = f"input_blocks.{n}.0"
            names[f"down_blocks.{level}.attentions.{block}"] = f"input_blocks.{n}.1"
            n += 1
        names[f"down_blocks.{level}.downsamplers.0"] = f"input_blocks.{n}.0"
        n += 1
    n = 0
    for up in range(levels):
        attention = up < levels - 1
        for block in range(config.blocks + 1):
            names[f"up_blocks.{up}.resnets.{block}"] = f"output_blocks.{n}.0"
            names[f"up_blocks.{up}.attentions.{block}"] = f"output_blocks.{n}.1"
            n += 1
        names[f"up_blocks.{up}.upsamplers.0"] = f"output_blocks.{n - 1}.{2 if attention else 1}"
    return names


def vae_source(config: LDMConfig) -> Callable[[str], Source]:
    """Our name in the first stage -> its source, without the prefix of the checkpoint."""
    last = len(config.vq_mult) - 1

    def source(key: str) -> Source:
        base, _, leaf = key.rpartition(".")
        found = BLOCK.fullmatch(base)
        if found is None:
            return Source(f"{base.replace('conv_norm_out', 'norm_out')}.{leaf}")
        block, kind, inner = found.groups()
        names = {"resnets": VAE_RESNET, "attentions": VAE_ATTENTION}.get(kind, {})
        ones = 2 if kind == "attentions" and leaf == "weight" and inner != "group_norm" else 0
        return Source(f"{_vae_block(block, last)}.{names.get(inner, inner)}.{leaf}", ones)

    return source


def _vae_block(block: str, last: int) -> str:
    """A block of our first stage -> theirs: the decoder counts its levels from the finest."""
    parts = block.split(".")
    side, kind, index = parts[0], parts[-2], int(parts[-1])
    if parts[1] == "mid_block":
        return f"{side}.mid.{'attn_1' if kind == 'attentions' else f'block_{index + 1}'}"
    level = int(parts[2])
    where = f"{side}.down.{level}" if side == "encoder" else f"{side}.up.{last - level}"
    inside = {"resnets": f"block.{index}", "downsamplers": "downsample", "upsamplers": "upsample"}
    return f"{where}.{inside[kind]}"
