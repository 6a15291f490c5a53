"""The embedded benchmarks' networks: 8x8 grey digits, a small U-Net, an autoencoder, and two small classifiers.

Data: the 1,797 handwritten digits that ship with scikit-learn, scaled from 0..16 to [-1, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from s4s.errors import extra

SHAPE = (1, 8, 8)
CLASSES = 10


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
    """The network of a digits benchmark, trained for one noise process.

    Two resolutions, 8x8 and 4x4, or 4x4 and 2x2 for latents. The ``edm`` network is a denoiser with the EDM
    preconditioning (Karras et al. 2022, Table 1); the others predict what their process has them predict, with nothing
    around the U-Net.

    Args:
        channels: width of the finest level.
        sigma_data: standard deviation of the data.
        process: ``edm``, ``vp`` or ``flow``.
        classes: number of classes it is told; class number ``classes`` is "none". 0 is unconditional.
        latents: channels of the latents that it works on, those of ``autoencoder``; 0 is pixels.
    """

    def __init__(
        self, channels: int = 32, sigma_data: float = 0.75, process: str = "edm", classes: int = 0, latents: int = 0
    ) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"channels": channels, "sigma_data": sigma_data}
        self.config |= {"process": process} if process != "edm" else {}
        self.config |= {key: n for key, n in (("classes", classes), ("latents", latents)) if n}
        self.sigma_data, self.process, self.classes = sigma_data, process, classes
        wide, embedding, pixels = 2 * channels, 4 * channels, latents or SHAPE[0]
        self.frequency: Tensor
        self.register_buffer("frequency", torch.exp(torch.linspace(math.log(0.5), math.log(16), channels // 2)))
        self.embed = nn.Sequential(
            nn.Linear(channels, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.conv_in = nn.Conv2d(pixels, channels, 3, padding=1)
        self.down = nn.ModuleList([Block(channels, channels, embedding)])
        self.middle = nn.ModuleList([Block(channels, wide, embedding), Block(wide, wide, embedding)])
        self.up = nn.ModuleList([Block(wide + channels, channels, embedding)])
        self.norm_out = nn.GroupNorm(8, channels)
        self.conv_out = nn.Conv2d(channels, pixels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        self.label = nn.Embedding(classes + 1, embedding) if classes else None
        self.autoencoder = Autoencoder(latents) if latents else None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one state."""
        return SHAPE if self.autoencoder is None else (self.autoencoder.latents, SHAPE[1] // 2, SHAPE[2] // 2)

    def forward(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """x [B, ...] in the process's own coordinates; time [B] or a scalar, as ``TOLD`` takes it; labels [B]."""
        time = time.to(x).expand(x.shape[0])
        if self.process != "edm":
            return self.body(x, TOLD[self.process](time), labels)
        sigma = time[:, None, None, None]
        total = (sigma**2 + self.sigma_data**2).sqrt()
        c_skip, c_out = (self.sigma_data / total) ** 2, sigma * self.sigma_data / total
        return c_skip * x + c_out * self.body(x / total, TOLD["edm"](sigma.flatten()), labels)

    def body(self, x: Tensor, told: Tensor, labels: Tensor | None = None) -> Tensor:
        """The raw U-Net on input of about unit variance; told [B]."""
        angle = told[:, None] * self.frequency
        embedding = self.embed(torch.cat([angle.cos(), angle.sin()], dim=1))
        embedding = embedding if self.label is None else embedding + self.label(labels)
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


TOLD: dict[str, Callable[[Tensor], Tensor]] = {
    "edm": lambda sigma: sigma.log() / 4,
    "vp": lambda step: step / 500 - 1,  # steps 0 to 999
    "flow": lambda time: 2 * time - 1,  # times 0 to 1
}
"""What a network is told of the time, about -1 to 1, by its process."""


class Autoencoder(nn.Module):
    """Digits [B, 1, 8, 8] to latents [B, k, 4, 4] of unit variance, and back; ``scale`` is 1 / that of the raw ones."""

    def __init__(self, latents: int) -> None:
        super().__init__()
        self.config: dict[str, Any] = {"latents": latents}
        self.latents = latents
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.SiLU(),
            nn.Conv2d(32, 64, 2, stride=2), nn.SiLU(), nn.Conv2d(64, latents, 3, padding=1),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Conv2d(latents, 64, 3, padding=1), nn.SiLU(), nn.ConvTranspose2d(64, 32, 2, stride=2), nn.SiLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.SiLU(), nn.Conv2d(32, 1, 3, padding=1),
        )  # fmt: skip
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))

    def encode(self, x: Tensor) -> Tensor:
        """Images in [-1, 1] -> latents."""
        out: Tensor = self.encoder(x) * self.scale
        return out

    def decode(self, z: Tensor) -> Tensor:
        """Latents -> images, about in [-1, 1]."""
        out: Tensor = self.decoder(z / self.scale)
        return out

    def forward(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


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
