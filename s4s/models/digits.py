"""The embedded benchmark's networks: 8x8 grey digits, a small EDM-preconditioned U-Net and two small classifiers.

Data: the 1,797 handwritten digits that ship with scikit-learn, scaled from 0..16 to [-1, 1].
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4s.errors import extra

SHAPE = (1, 8, 8)


def digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 1, 8, 8] float32 in [-1, 1], and labels [1797] int64."""
    with extra("benchmark"):
        from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.images).float()[:, None] / 8 - 1, torch.from_numpy(data.target).long()


class Block(nn.Module):
    """Residual block: GroupNorm, SiLU, 3x3 convolution, twice; the level shifts and scales the second norm."""

    def __init__(self, channels_in: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm0 = nn.GroupNorm(8, channels_in)
        self.conv0 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.affine = nn.Linear(embedding, 2 * channels)
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.skip = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        nn.init.zeros_(self.conv1.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.affine(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv0(F.silu(self.norm0(x)))
        h = self.conv1(F.silu(self.norm1(h) * (1 + scale) + shift))
        return self.skip(x) + h


class DigitsUNet(nn.Module):
    """Denoiser ``(x, sigma) -> x_0`` with the EDM preconditioning (Karras et al. 2022, Table 1).

    Two resolutions, 8x8 and 4x4. x [B, 1, 8, 8] in EDM coordinates, sigma [B] or scalar.
    """

    def __init__(self, channels: int = 32, sigma_data: float = 0.75) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"channels": channels, "sigma_data": sigma_data}
        self.sigma_data = sigma_data
        wide, embedding = 2 * channels, 4 * channels
        self.frequency: Tensor
        self.register_buffer("frequency", torch.exp(torch.linspace(math.log(0.5), math.log(16), channels // 2)))
        self.embed = nn.Sequential(
            nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.conv_in = nn.Conv2d(1, channels, 3, padding=1)
        self.down = nn.ModuleList([Block(channels, channels, embedding)])
        self.middle = nn.ModuleList([Block(channels, wide, embedding), Block(wide, wide, embedding)])
        self.up = nn.ModuleList([Block(wide + channels, channels, embedding)])
        self.norm_out = nn.GroupNorm(8, channels)
        self.conv_out = nn.Conv2d(channels, 1, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma.to(x).expand(x.shape[0])[:, None, None, None]
        total = (sigma**2 + self.sigma_data**2).sqrt()
        c_skip, c_out = (self.sigma_data / total) ** 2, sigma * self.sigma_data / total
        return c_skip * x + c_out * self.body(x / total, sigma.flatten().log() / 4)

    def body(self, x: Tensor, c_noise: Tensor) -> Tensor:
        """The raw U-Net on unit-variance input; c_noise [B] is ``ln(sigma)/4``."""
        angle = c_noise[:, None] * self.frequency
        embedding = self.embed(torch.cat([angle.cos(), angle.sin()], dim=1))
        x = self.conv_in(x)
        for block in self.down:
            x = block(x, embedding)
        skip = x
        x = F.avg_pool2d(x, 2)
        for block in self.middle:
            x = block(x, embedding)
        x = torch.cat([F.interpolate(x, scale_factor=2.0), skip], dim=1)
        for block in self.up:
            x = block(x, embedding)
        return self.conv_out(F.silu(self.norm_out(x)))


class Classifier(nn.Module):
    """Features for the Frechet distance: a small digit classifier; ``features`` is its 64-d penultimate layer.

    No normalisation layers: they would hide what few-step solvers get wrong first, the contrast of an image.
    """

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.stem = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(),
            nn.Linear(64 * 16, 64), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(64, 10)

    def features(self, x: Tensor) -> Tensor:
        """Images [B, 1, 8, 8] in [-1, 1] -> [B, 64]."""
        return self.stem(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Perceptual(nn.Module):
    """Features for the training distance, the digits' stand-in for LPIPS: another classifier, other layers, other seed.

    It shares nothing with ``Classifier``, so that a solver is never trained on the features it is scored with.
    """

    def __init__(self) -> None:
        super().__init__()
        self.config: dict[str, Any] = {}
        self.stages = nn.ModuleList([
            nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, 24, 3, padding=1), nn.SiLU()),
            nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(24, 48, 3, padding=1), nn.SiLU()),
            nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(48, 96, 2), nn.SiLU()),
        ])  # fmt: skip
        self.head = nn.Linear(96, 10)

    def taps(self, x: Tensor) -> list[Tensor]:
        """Images [B, 1, 8, 8] in [-1, 1] -> activations after each stage."""
        taps = []
        for stage in self.stages:
            x = stage(x)
            taps.append(x)
        return taps

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.taps(x)[-1].flatten(1))
