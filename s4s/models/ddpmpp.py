"""The DDPM++ U-Net (Song et al. 2021) in the variant of EDM (Karras et al. 2022).

Written from the papers; the parameter names are those of the published EDM weights, so that they load strictly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4s.errors import Error


@dataclass(frozen=True)
class UNetConfig:
    """Shape of the network.

    Args:
        resolution: height and width of the images, in pixels.
        channels: colour channels.
        label_dim: number of classes; 0 is unconditional.
        augment_dim: length of the augmentation labels used in training; none are given when sampling.
        model_channels: width of the finest level.
        channel_mult: width of each level, finest first, in units of ``model_channels``.
        blocks: residual blocks a level in the encoder; the decoder has one more.
        attention: resolutions with self-attention.
        dropout: of the residual branch, in training only.

    Raises:
        Error: a value is of the wrong type or out of range.
    """

    resolution: int
    channels: int = 3
    label_dim: int = 0
    augment_dim: int = 0
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for key, (low, high) in BOUNDS.items():
            _check_integer(key, getattr(self, key), low, high)
        for key, longest, high in (("channel_mult", 8, 16), ("attention", 16, 1024)):
            object.__setattr__(self, key, _checked_tuple(key, getattr(self, key), longest, high))
        if type(self.dropout) not in (int, float) or not 0 <= self.dropout < 1:
            raise Error("network configuration: 'dropout' must be a number from 0 to below 1")
        factor = 1 << max(len(self.channel_mult) - 1, 0)
        if not self.channel_mult or self.resolution % factor:
            levels = len(self.channel_mult)
            raise Error(f"network configuration: resolution {self.resolution} cannot be halved over {levels} levels")

    @classmethod
    def from_dict(cls, data: Any) -> UNetConfig:
        """Inverse of ``dataclasses.asdict``; unknown and missing keys are errors."""
        names = [field.name for field in fields(cls)]
        if not isinstance(data, dict) or set(data) != set(names):
            raise Error(f"network configuration: needs exactly the keys {', '.join(names)}")
        return cls(**data)


BOUNDS = {
    "resolution": (1, 1024),
    "channels": (1, 64),
    "label_dim": (0, 100_000),
    "augment_dim": (0, 1024),
    "model_channels": (4, 1024),
    "blocks": (1, 16),
}


class UNet(nn.Module):
    """DDPM++ (Song et al. 2021) on unit-variance input, conditioned on ``c_noise`` = ln(sigma)/4."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        width = config.model_channels
        self.width = width
        self.map_label = nn.Linear(config.label_dim, width) if config.label_dim else None
        self.map_augment = nn.Linear(config.augment_dim, width, bias=False) if config.augment_dim else None
        self.map_layer0 = nn.Linear(width, 4 * width)
        self.map_layer1 = nn.Linear(4 * width, 4 * width)
        self.enc, widths = _encoder(config)
        self.dec = _decoder(config, widths)

    def forward(self, x: Tensor, c_noise: Tensor, labels: Tensor | None = None) -> Tensor:
        embedding = self._embed(c_noise.to(self.map_layer0.weight.dtype), labels)
        x = x.to(next(self.enc.parameters()).dtype)
        skips: list[Tensor] = []
        for block in self.enc.values():
            x = block(x, embedding) if isinstance(block, Block) else block(x)
            skips.append(x)
        for name, block in self.dec.items():
            if isinstance(block, Block):
                x = block(torch.cat([x, skips.pop()], dim=1) if "block" in name else x, embedding)
            else:
                x = block(x) if isinstance(block, nn.GroupNorm) else block(F.silu(x))
        return x

    def _embed(self, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        """[B] -> [B, 4 * width]: sines and cosines at frequencies from 1 to 1e-4, then two layers."""
        half = self.width // 2
        angle = c_noise[:, None] * torch.logspace(0, -4, half, dtype=c_noise.dtype, device=c_noise.device)
        embedding = torch.cat([angle.sin(), angle.cos()], dim=1)
        if self.map_label is not None and labels is not None:
            embedding = embedding + self.map_label(labels.to(embedding) * math.sqrt(self.map_label.in_features))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(embedding))))


class Block(nn.Module):
    """Residual block: norm, SiLU, 3x3 convolution, twice, the level added in between; optional self-attention.

    Each sum of two branches is scaled by sqrt(1/2), which keeps the variance of the state.
    """

    def __init__(self, config: UNetConfig, inputs: int, outputs: int, *, resample: str = "", attention: bool = False):
        super().__init__()
        self.dropout = config.dropout
        self.norm0 = _norm(inputs)
        self.conv0 = _conv(inputs, outputs, 3, resample)
        self.affine = nn.Linear(4 * config.model_channels, outputs)
        self.norm1 = _norm(outputs)
        self.conv1 = _conv(outputs, outputs, 3)
        self.skip = _conv(inputs, outputs, 1, resample) if inputs != outputs or resample else None
        if attention:
            self.norm2 = _norm(outputs)
            self.qkv = _conv(outputs, 3 * outputs, 1)
            self.proj = _conv(outputs, outputs, 1)
        self.attention = attention

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x)))
        h = h + self.affine(embedding).to(h.dtype)[:, :, None, None]
        h = self.conv1(F.dropout(F.silu(self.norm1(h)), self.dropout, self.training))
        x = (h + (x if self.skip is None else self.skip(x))) * math.sqrt(0.5)
        return (x + self._attend(x)) * math.sqrt(0.5) if self.attention else x

    def _attend(self, x: Tensor) -> Tensor:
        """Single-head attention over the pixels; queries, keys and values alternate along the channels of qkv."""
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm2(x)).reshape(batch, 1, channels, 3, height * width)
        q, k, v = (part.transpose(2, 3) for part in qkv.unbind(3))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(2, 3).reshape(batch, channels, height, width))


class Resampling(nn.Conv2d):
    """Convolution at half or double the resolution, with the filter [1, 1]: the mean of, or copies to, 2x2 pixels."""

    def __init__(self, inputs: int, outputs: int, kernel: int, up: bool) -> None:
        super().__init__(inputs, outputs, kernel, padding=kernel // 2)
        self.up = up
        self.register_buffer("resample_filter", torch.full((1, 1, 2, 2), 0.25))  # only to check published weights

    def forward(self, x: Tensor) -> Tensor:
        if not self.up:
            return super().forward(F.avg_pool2d(x, 2))
        if self.kernel_size == (1, 1):  # commutes with copying pixels; a quarter of the work on this side
            return F.interpolate(super().forward(x), scale_factor=2.0)
        return super().forward(F.interpolate(x, scale_factor=2.0))


def _encoder(config: UNetConfig) -> tuple[nn.ModuleDict, list[int]]:
    """The blocks by published name, and the width of each output, in order."""
    width = config.model_channels
    blocks: dict[str, nn.Module] = {_name(config, 0, "conv"): _conv(config.channels, width, 3)}
    widths = [width]
    for level, factor in enumerate(config.channel_mult):
        if level:
            blocks[_name(config, level, "down")] = Block(config, width, width, resample="down")
            widths.append(width)
        for i in range(config.blocks):
            attention = config.resolution >> level in config.attention
            outputs = factor * config.model_channels
            blocks[_name(config, level, f"block{i}")] = Block(config, width, outputs, attention=attention)
            width = outputs
            widths.append(width)
    return nn.ModuleDict(blocks), widths


def _decoder(config: UNetConfig, widths: list[int]) -> nn.ModuleDict:
    """Mirror of the encoder; each ``block`` also takes the encoder output whose width is popped from ``widths``."""
    width = widths[-1]
    blocks: dict[str, nn.Module] = {}
    for level in reversed(range(len(config.channel_mult))):
        if level == len(config.channel_mult) - 1:
            blocks[_name(config, level, "in0")] = Block(config, width, width, attention=True)
            blocks[_name(config, level, "in1")] = Block(config, width, width)
        else:
            blocks[_name(config, level, "up")] = Block(config, width, width, resample="up")
        outputs = config.channel_mult[level] * config.model_channels
        for i in range(config.blocks + 1):
            attention = i == config.blocks and config.resolution >> level in config.attention
            inputs = width + widths.pop()
            blocks[_name(config, level, f"block{i}")] = Block(config, inputs, outputs, attention=attention)
            width = outputs
    blocks[_name(config, 0, "aux_norm")] = _norm(width)
    blocks[_name(config, 0, "aux_conv")] = _conv(width, config.channels, 3)
    return nn.ModuleDict(blocks)


def _name(config: UNetConfig, level: int, part: str) -> str:
    size = config.resolution >> level
    return f"{size}x{size}_{part}"


def _conv(inputs: int, outputs: int, kernel: int, resample: str = "") -> nn.Conv2d:
    if resample:
        return Resampling(inputs, outputs, kernel, up=resample == "up")
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)


def _norm(channels: int) -> nn.GroupNorm:
    groups = min(32, channels // 4)
    if channels % groups:
        raise Error(f"network configuration: {channels} channels do not divide into {groups} groups")
    return nn.GroupNorm(groups, channels, eps=1e-6)


def _check_integer(key: str, value: Any, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise Error(f"network configuration: '{key}' must be an integer from {low} to {high}")


def _checked_tuple(key: str, value: Any, longest: int, high: int) -> tuple[int, ...]:
    if not isinstance(value, list | tuple) or len(value) > longest:
        raise Error(f"network configuration: '{key}' must be a list of at most {longest} integers")
    for item in value:
        _check_integer(key, item, 1, high)
    return tuple(value)
