"""A physics toy: configurations of a chain of double wells, sampled by a network in EDM's form, of one's own making."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from compare import CALLS, Home, Perceptron, Sampler, show, train
from torch import Tensor, nn

import s4s

SITES, COUPLING, DEPTH = 8, 1.0, 3.0


def energy_slope(x: Tensor) -> Tensor:
    """Of ``sum DEPTH (x_i^2 - 1)^2 + COUPLING/2 (x_i - x_(i+1))^2``, on a ring of sites."""
    return 4 * DEPTH * x * (x.square() - 1) + COUPLING * (2 * x - x.roll(1, 1) - x.roll(-1, 1))


def configurations(n: int, generator: torch.Generator) -> Tensor:
    """From Langevin dynamics at temperature 1, [n, SITES]."""
    x = torch.randn(n, SITES, generator=generator).clamp(-1.5, 1.5)
    for _ in range(1000):
        x = x - 0.004 * energy_slope(x) + 0.008**0.5 * torch.randn(n, SITES, generator=generator)
    return x


class Preconditioned(nn.Module):
    """A denoiser of a state and a level (Karras et al. 2022, Table 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Perceptron(SITES)

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        sigma = sigma.to(x).reshape(-1, 1)
        norm = (1 + sigma**2).sqrt()
        return x / norm**2 + sigma / norm * self.net(x / norm, sigma.log()[:, 0] / 4)


def chain() -> Home:
    model = trained()

    # The adapter: it is a denoiser already, and the process is the range of its levels
    process, denoise = s4s.EDM(sigma_min=0.01, sigma_max=20.0), model

    def own(steps: int, heun: bool) -> Sampler:
        levels = s4s.grid("karras", process, steps).float()
        return lambda noise: integrated(model, levels, levels[0] * noise, heun)

    few = {"Euler": own(CALLS, heun=False), "Heun": own(CALLS // 2, heun=True)}
    return Home("physics: double wells", process, denoise, model, own(200, heun=True), few, shape=(SITES,))


HOMES: list[Callable[[], Home]] = [chain]


@torch.no_grad()
def integrated(model: Preconditioned, levels: Tensor, x: Tensor, heun: bool) -> Tensor:
    """The probability flow, as one writes it: ``dx/dsigma = (x - D) / sigma``."""
    for level, lower in pairwise(levels):
        slope = (x - model(x, level)) / level
        if heun:
            ahead = x + (lower - level) * slope
            slope = (slope + (ahead - model(ahead, lower)) / lower) / 2
        x = x + (lower - level) * slope
    return x


def trained() -> Preconditioned:
    model, generator = Preconditioned(), torch.Generator().manual_seed(0)
    data = configurations(4000, generator)

    def loss() -> Tensor:
        x = data[torch.randint(len(data), (256,), generator=generator)]
        sigma = (1.2 * torch.randn(256, generator=generator) - 0.5).exp().clamp(0.01, 20)
        off = model(x + sigma[:, None] * torch.randn(x.shape, generator=generator), sigma) - x
        return ((1 + sigma**-2)[:, None] * off.square()).mean()

    train(model, loss)
    return model


if __name__ == "__main__":
    show(HOMES, Path("homes"))
