"""Training of the embedded benchmark's networks. Every draw comes from one generator: the seed decides the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from s4s.errors import Error
from s4s.models.digits import Classifier, DigitsUNet, Perceptual, digits

Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator], Tensor]


def train_denoiser(seed: int, steps: int, batch: int = 128, lr: float = 2e-3, channels: int = 32) -> nn.Module:
    """EDM training (Karras et al. 2022, Table 1): ``ln sigma ~ N(-0.8, 1.5^2)``, weight ``1/c_out^2``, averaged weights."""
    x, y = digits()
    torch.manual_seed(seed)
    return _train(DigitsUNet(channels, sigma_data=x.std().item()), _denoising_loss, (x, y), seed, steps, batch, lr)


def train_classifier(kind: str, seed: int, steps: int, batch: int = 64, lr: float = 2e-3) -> nn.Module:
    """Digit classifier; ``kind`` is ``features`` (scores samples) or ``perceptual`` (measures distance in fits)."""
    torch.manual_seed(seed)
    return _train(CLASSIFIERS[kind](), _classification_loss, digits(), seed, steps, batch, lr)


CLASSIFIERS: dict[str, Callable[[], nn.Module]] = {"features": Classifier, "perceptual": Perceptual}


def _denoising_loss(net: nn.Module, x: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    sigma = (torch.randn(len(x), generator=generator) * 1.5 - 0.8).exp()
    noisy = x + sigma[:, None, None, None] * torch.randn(x.shape, generator=generator)
    s: float = net.sigma_data  # type: ignore[assignment]
    weight = (sigma**2 + s**2) / (sigma * s) ** 2
    return (weight[:, None, None, None] * (net(noisy, sigma) - x) ** 2).mean()


def _classification_loss(net: nn.Module, x: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    return F.cross_entropy(net(x), labels)


def _train(
    net: nn.Module, loss_of: Loss, data: tuple[Tensor, Tensor], seed: int, steps: int, batch: int, lr: float
) -> nn.Module:
    """AdamW, warm-up then cosine; returns the exponential average of the weights (half-life 3% of the run)."""
    generator = torch.Generator().manual_seed(seed)
    average = copy.deepcopy(net)
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=1e-3, betas=(0.9, 0.99))
    warm = max(steps // 50, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: min((k + 1) / warm, 0.5 * (1 + math.cos(math.pi * k / steps)) + 1e-3)
    )
    decay = 0.5 ** (1 / (0.03 * steps))
    net.train()
    for _ in tqdm(range(steps), desc=f"train {type(net).__name__}", mininterval=2):
        index = torch.randint(len(data[0]), (batch,), generator=generator)
        loss = loss_of(net, data[0][index], data[1][index], generator)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for a, b in zip(average.parameters(), net.parameters(), strict=True):
                a.lerp_(b, 1 - decay)
    if not all(p.isfinite().all() for p in average.parameters()):
        raise Error("training diverged: the averaged weights hold NaN or infinity; lower the learning rate")
    return average.eval().requires_grad_(False)


def accuracy(net: nn.Module) -> float:
    """Share of the digits a classifier gets right."""
    x, labels = digits()
    with torch.no_grad():
        return (net(x).argmax(1) == labels).float().mean().item()


