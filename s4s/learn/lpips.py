"""LPIPS on VGG16 (Zhang et al. 2018, its weights' version 0.1) as a ``Distance``, in plain torch.

The published backbone and heads are fetched once, checked, and kept as one safetensors file.
"""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from s4s.download import cache_dir, download
from s4s.errors import Error
from s4s.files import write_tensors
from s4s.learn.distance import Distance, perceptual

BLOCKS = (64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512)
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
SMALLEST = 16  # pixels a side, so that the last tap has one
EPS = 1e-10

BACKBONE = "https://download.pytorch.org/models/vgg16-397923af.pth"
BACKBONE_SHA256 = "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"
HEADS = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity"
    "/082bb24f84c091ea94de2867d34c4544f68e0963/lpips/weights/v0.1/vgg.pth"
)
HEADS_SHA256 = "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868"


class VGG16(nn.Module):
    """The 13 convolutions of VGG16, tapped after the last ReLU of each block, and one weight a tapped channel."""

    shift: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        widths = [3, *(width for block in BLOCKS for width in block)]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in pairwise(widths))
        self.heads = nn.ParameterList(nn.Parameter(torch.ones(block[-1])) for block in BLOCKS)
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None], persistent=False)
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None], persistent=False)

    def taps(self, x: Tensor) -> list[Tensor]:
        """[B, 1 or 3, H, W] images in [-1, 1] -> activations of the five blocks; in the dtype of the weights."""
        if x.ndim != 4 or x.shape[1] not in (1, 3) or min(x.shape[2:]) < SMALLEST:
            raise Error(f"LPIPS takes [B, 1 or 3, H, W] images of at least {SMALLEST}x{SMALLEST}, got {list(x.shape)}; "
                        "decode latents first (s4s.decoded)")  # fmt: skip
        if x.device != self.shift.device:
            self.to(x.device)
        x = (x.to(self.shift.dtype) - self.shift) / self.scale
        made, convs = [], iter(self.convs)
        for i, block in enumerate(BLOCKS):
            x = F.max_pool2d(x, 2) if i else x
            for _ in block:
                x = F.relu(next(convs)(x))
            made.append(x)
        return made


def lpips(net: VGG16 | None = None) -> Distance:
    """LPIPS between images in [-1, 1]; loads the published weights unless a network is given.

    Raises:
        Error: the weights are not there and cannot be fetched; says how to put them there by hand.
    """
    net = load() if net is None else net
    return perceptual(net.taps, "lpips", list(net.heads), EPS)


def load(path: Path | str | None = None, *, offline: bool = False) -> VGG16:
    """The published network, frozen; made from the two published files the first time.

    Args:
        path: the safetensors file; default ``lpips-vgg16.safetensors`` in the cache directory.
        offline: never touch the network.
    """
    path = place() if path is None else Path(path)
    if not path.exists():
        convert(path, offline=offline)
    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise Error(f"{path}: cannot read the weights of LPIPS ({error}); remove the file to make it again") from error
    return _network(state, str(path))


def place() -> Path:
    """Where the network is kept: in the cache directory."""
    return cache_dir() / "lpips-vgg16.safetensors"


def sources(*, offline: bool = False) -> tuple[Path, Path]:
    """The published backbone and heads, fetched into the cache directory unless they are there, and checked."""
    heads = download(HEADS, cache_dir() / "lpips-vgg-heads.pth", HEADS_SHA256, licence="BSD-2-Clause", offline=offline)
    return download(BACKBONE, None, BACKBONE_SHA256, licence="BSD-3-Clause", offline=offline), heads


def convert(path: Path, *, offline: bool = False) -> None:
    """Make the safetensors file from the published backbone and heads, fetched into the cache directory."""
    backbone, heads = sources(offline=offline)
    published, weights = _read(backbone), _read(heads)
    layers = sorted({int(key.split(".")[1]) for key in published if key.startswith("features.")})
    state = {f"heads.{i}": weights.get(f"lin{i}.model.1.weight", torch.empty(0)).flatten() for i in range(len(BLOCKS))}
    for i, layer in enumerate(layers):
        for part in ("weight", "bias"):
            state[f"convs.{i}.{part}"] = published[f"features.{layer}.{part}"].contiguous()
    _network(state, str(backbone))
    write_tensors(path, state, {"backbone_sha256": BACKBONE_SHA256, "heads_sha256": HEADS_SHA256})


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise Error(f"{path}: is not a file of tensors ({str(error).splitlines()[0]})") from error
    if not isinstance(state, dict):
        raise Error(f"{path}: is not a file of named tensors")
    return state


def _network(state: dict[str, Tensor], name: str) -> VGG16:
    net = VGG16()
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise Error(f"{name}: does not hold the weights of LPIPS' VGG16; remove the file to make it again") from error
    if not all((head >= 0).all() for head in net.heads):
        raise Error(f"{name}: a weight of LPIPS' heads is negative or NaN; remove the file to make it again")
    return net.eval().requires_grad_(False)
