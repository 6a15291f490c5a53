"""Latent diffusion networks in the CompVis layout, as plain functions of a dictionary of weights.

Written from the published description, independent of ``s4s.models``: one definition gives both the names and shapes
of a checkpoint (weights are drawn on first use) and what it computes.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from s4s.models.ldm import LDMConfig

Target = TypeVar("Target", Path, BytesIO)
GROUPS = 32
TINY = LDMConfig(
    size=8, width=32, mult=(1, 2), blocks=1, head_dim=32, vq_width=32, vq_mult=(1, 2), vq_blocks=1, codebook=16
)
TINY_CLASSES = LDMConfig(**{**TINY.__dict__, "classes": 11, "context": 16})


class Weights(dict[str, Tensor]):
    """Drawn on first use, from a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)

    def get_or_draw(self, name: str, *shape: int) -> Tensor:
        if name not in self:
            scale = math.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.1
            offset = 1.0 if name.endswith("weight") and len(shape) == 1 else 0.0
            self[name] = offset + scale * torch.randn(shape, generator=self.generator)
        return self[name]

    def conv(self, x: Tensor, name: str, out: int, size: int = 3, **options: Any) -> Tensor:
        weight = self.get_or_draw(f"{name}.weight", out, x.shape[1], *[size] * (x.ndim - 2))
        return (F.conv2d if x.ndim == 4 else F.conv1d)(x, weight, self.get_or_draw(f"{name}.bias", out), **options)

    def linear(self, x: Tensor, name: str, out: int, bias: bool = True) -> Tensor:
        weight = self.get_or_draw(f"{name}.weight", out, x.shape[-1])
        return F.linear(x, weight, self.get_or_draw(f"{name}.bias", out) if bias else None)

    def norm(self, x: Tensor, name: str, eps: float = 1e-5) -> Tensor:
        n = x.shape[1]
        return F.group_norm(x, GROUPS, self.get_or_draw(f"{name}.weight", n), self.get_or_draw(f"{name}.bias", n), eps)

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        n = x.shape[-1]
        return F.layer_norm(x, (n,), self.get_or_draw(f"{name}.weight", n), self.get_or_draw(f"{name}.bias", n))


def unet(w: Weights, c: LDMConfig, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
    """The U-Net: x [B, 3, H, W], t [B] real index, context [B, n, width] or None."""
    half = c.width // 2
    angles = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
    emb = torch.cat([angles.cos(), angles.sin()], dim=1)
    emb = w.linear(F.silu(w.linear(emb, "time_embed.0", 4 * c.width)), "time_embed.2", 4 * c.width)

    def block(x: Tensor, name: str, out: int, attend: bool) -> Tensor:
        x = resnet(w, x, f"{name}.0", out, emb)
        return attention(w, c, x, f"{name}.1", context) if attend else x

    x = w.conv(x, "input_blocks.0.0", c.width, padding=1)
    skips, n = [x], 1
    for level, mult in enumerate(c.mult):
        for _ in range(c.blocks):
            x = block(x, f"input_blocks.{n}", mult * c.width, level > 0)
            skips.append(x)
            n += 1
        if level < len(c.mult) - 1:
            x = w.conv(x, f"input_blocks.{n}.0.op", mult * c.width, stride=2, padding=1)
            skips.append(x)
            n += 1
    x = block(x, "middle_block", c.mult[-1] * c.width, True)
    x = resnet(w, x, "middle_block.2", c.mult[-1] * c.width, emb)
    n = 0
    for level, mult in reversed(list(enumerate(c.mult))):
        for i in range(c.blocks + 1):
            x = block(torch.cat([x, skips.pop()], 1), f"output_blocks.{n}", mult * c.width, level > 0)
            if level and i == c.blocks:
                x = F.interpolate(x, scale_factor=2.0)
                x = w.conv(x, f"output_blocks.{n}.{2 if level else 1}.conv", mult * c.width, padding=1)
            n += 1
    return w.conv(F.silu(w.norm(x, "out.0")), "out.2", 3, padding=1)


def resnet(w: Weights, x: Tensor, name: str, out: int, emb: Tensor) -> Tensor:
    h = w.conv(F.silu(w.norm(x, f"{name}.in_layers.0")), f"{name}.in_layers.2", out, padding=1)
    h = h + w.linear(F.silu(emb), f"{name}.emb_layers.1", out)[:, :, None, None]
    h = w.conv(F.silu(w.norm(h, f"{name}.out_layers.0")), f"{name}.out_layers.3", out, padding=1)
    return h + (x if x.shape[1] == out else w.conv(x, f"{name}.skip_connection", out, 1))


def attention(w: Weights, c: LDMConfig, x: Tensor, name: str, context: Tensor | None) -> Tensor:
    b, channels = x.shape[:2]
    if context is None:  # q, k and v of one head lie side by side
        flat = x.reshape(b, channels, -1)
        qkv = w.conv(w.norm(flat, f"{name}.norm"), f"{name}.qkv", 3 * channels, 1)
        heads = channels // c.head_dim
        q, k, v = qkv.reshape(b * heads, 3 * c.head_dim, -1).chunk(3, dim=1)
        weights = torch.softmax(q.transpose(1, 2) @ k / c.head_dim**0.5, dim=-1)
        out = (v @ weights.transpose(1, 2)).reshape(b, channels, -1)
        return (flat + w.conv(out, f"{name}.proj_out", channels, 1)).reshape(x.shape)
    h = w.conv(w.norm(x, f"{name}.norm", 1e-6), f"{name}.proj_in", channels, 1)
    h = h.flatten(2).transpose(1, 2)
    inner = f"{name}.transformer_blocks.0"
    h = h + cross(w, n := w.layer_norm(h, f"{inner}.norm1"), n, f"{inner}.attn1")
    h = h + cross(w, w.layer_norm(h, f"{inner}.norm2"), context, f"{inner}.attn2")
    value, gate = w.linear(w.layer_norm(h, f"{inner}.norm3"), f"{inner}.ff.net.0.proj", 8 * channels).chunk(2, dim=-1)
    h = h + w.linear(value * F.gelu(gate), f"{inner}.ff.net.2", channels)
    return x + w.conv(h.transpose(1, 2).reshape(x.shape), f"{name}.proj_out", channels, 1)


def cross(w: Weights, x: Tensor, context: Tensor, name: str) -> Tensor:
    """Attention with one head."""
    n = x.shape[-1]
    q, k, v = (w.linear(y, f"{name}.to_{p}", n, bias=False) for p, y in (("q", x), ("k", context), ("v", context)))
    return w.linear(torch.softmax(q @ k.transpose(1, 2) / n**0.5, dim=-1) @ v, f"{name}.to_out.0", n)


def encode(w: Weights, c: LDMConfig, x: Tensor) -> Tensor:
    x = w.conv(x, "encoder.conv_in", c.vq_width, padding=1)
    for level, mult in enumerate(c.vq_mult):
        for i in range(c.vq_blocks):
            x = vq_resnet(w, x, f"encoder.down.{level}.block.{i}", mult * c.vq_width)
        if level < len(c.vq_mult) - 1:
            x = w.conv(F.pad(x, (0, 1, 0, 1)), f"encoder.down.{level}.downsample.conv", x.shape[1], stride=2)
    x = F.silu(w.norm(vq_middle(w, x, "encoder.mid"), "encoder.norm_out", 1e-6))
    return w.conv(w.conv(x, "encoder.conv_out", 3, padding=1), "quant_conv", 3, 1)


def decode(w: Weights, c: LDMConfig, z: Tensor) -> Tensor:
    """Latents [B, 3, h, w] -> images, through the nearest code vectors."""
    codes = w.get_or_draw("quantize.embedding.weight", c.codebook, 3)
    flat = z.permute(0, 2, 3, 1).reshape(-1, 1, 3)
    z = codes[(flat - codes).square().sum(-1).argmin(1)].reshape(len(z), *z.shape[2:], 3).permute(0, 3, 1, 2)
    x = w.conv(w.conv(z, "post_quant_conv", 3, 1), "decoder.conv_in", c.vq_mult[-1] * c.vq_width, padding=1)
    x = vq_middle(w, x, "decoder.mid")
    for level, mult in reversed(list(enumerate(c.vq_mult))):
        for i in range(c.vq_blocks + 1):
            x = vq_resnet(w, x, f"decoder.up.{level}.block.{i}", mult * c.vq_width)
        if level:
            x = w.conv(F.interpolate(x, scale_factor=2.0), f"decoder.up.{level}.upsample.conv", x.shape[1], padding=1)
    return w.conv(F.silu(w.norm(x, "decoder.norm_out", 1e-6)), "decoder.conv_out", 3, padding=1)


def vq_resnet(w: Weights, x: Tensor, name: str, out: int) -> Tensor:
    h = w.conv(F.silu(w.norm(x, f"{name}.norm1", 1e-6)), f"{name}.conv1", out, padding=1)
    h = w.conv(F.silu(w.norm(h, f"{name}.norm2", 1e-6)), f"{name}.conv2", out, padding=1)
    return h + (x if x.shape[1] == out else w.conv(x, f"{name}.nin_shortcut", out, 1))


def vq_middle(w: Weights, x: Tensor, name: str) -> Tensor:
    x = vq_resnet(w, x, f"{name}.block_1", x.shape[1])
    h = w.norm(x, f"{name}.attn_1.norm", 1e-6)
    q, k, v = (w.conv(h, f"{name}.attn_1.{p}", x.shape[1], 1).flatten(2) for p in "qkv")
    h = v @ torch.softmax(q.transpose(1, 2) @ k / x.shape[1] ** 0.5, dim=-1).transpose(1, 2)
    x = x + w.conv(h.reshape(x.shape), f"{name}.attn_1.proj_out", x.shape[1], 1)
    return vq_resnet(w, x, f"{name}.block_2", x.shape[1])


def draw(c: LDMConfig, seed: int = 0) -> tuple[Weights, Weights, Tensor | None]:
    """Weights of the U-Net, of the first stage, and the class embeddings."""
    net, stage = Weights(seed), Weights(seed + 1)
    table = Weights(seed + 2).get_or_draw("weight", c.classes, c.context) if c.classes else None
    x = torch.zeros(1, 3, c.size, c.size)
    unet(net, c, x, torch.zeros(1), None if table is None else table[:1, None])
    decode(stage, c, encode(stage, c, torch.zeros(1, 3, 2 * c.size, 2 * c.size)))
    stage["quantize.embedding.weight"] *= 3
    return net, stage, table


def state_dict(net: Weights, stage: Weights, table: Tensor | None, ema: Weights | None = None) -> dict[str, Any]:
    """What CompVis saves under 'state_dict'."""
    state: dict[str, Any] = {f"model.diffusion_model.{key}": value for key, value in net.items()}
    if ema is not None:
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7, dtype=torch.int32)}
        state |= {f"model_ema.diffusion_model{key.replace('.', '')}": value for key, value in ema.items()}
    state |= {f"first_stage_model.{key}": value for key, value in stage.items()}
    if table is not None:
        state["cond_stage_model.embedding.weight"] = table
    betas = torch.linspace(0.0015**0.5, 0.0195**0.5, 1000, dtype=torch.float64) ** 2
    return state | {"betas": betas.float(), "alphas_cumprod": (1 - betas).cumprod(0).float()}


def save(path: Target, state: Any, **options: Any) -> Target:
    """A checkpoint as Lightning writes it: with its callbacks, keyed by their class."""
    with _lightning() as callback:
        top = {
            "state_dict": state,
            "epoch": 3,
            "global_step": 9,
            "callbacks": {callback: {"best_model_score": torch.ones(())}},
        }
        torch.save(top, path, **options)
    return path


@cache
def honest() -> bytes:
    """A small file without EMA weights."""
    return dump(state_dict(*draw(TINY)))


def dump(state: Any, **options: Any) -> bytes:
    """What ``save`` writes."""
    save(file := BytesIO(), state, **options)
    return file.getvalue()


@contextmanager
def _lightning() -> Iterator[type]:
    """The name of Lightning's callback, without Lightning."""
    names = ["pytorch_lightning", "pytorch_lightning.callbacks", "pytorch_lightning.callbacks.model_checkpoint"]
    modules = {name: ModuleType(name) for name in names}
    callback = type("ModelCheckpoint", (), {"__module__": names[-1]})
    modules[names[-1]].ModelCheckpoint = callback  # type: ignore[attr-defined]
    sys.modules.update(modules)
    try:
        yield callback
    finally:
        for name in names:
            sys.modules.pop(name)
