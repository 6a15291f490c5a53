"""Training of the embedded benchmark's networks. Every draw comes from one generator: the seed decides the weights.

A batch is cut in two and each half runs on a thread of its own, every operation single-threaded: the result does not
depend on the number of cores, and two cores are used without waiting for each other inside every operation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from s4s.errors import Error
from s4s.models.digits import Classifier, DigitsUNet, Perceptual, digits

Draw = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, ...]]
"""``(images, labels, generator) -> the tensors of one training batch``."""
Loss = Callable[..., Tensor]
"""``(net, *tensors of a batch) -> loss``."""
HALVES = 2


def train_denoiser(seed: int, steps: int, batch: int = 128, lr: float = 2e-3, channels: int = 32) -> nn.Module:
    """EDM training (Karras et al. 2022, Table 1) with ``ln sigma ~ N(-0.8, 1.5^2)``; the weights are averaged."""
    x, y = digits()
    torch.manual_seed(seed)
    net = DigitsUNet(channels, sigma_data=x.std().item())
    return _train(net, (_noisy, _denoising_loss), (x, y), seed, steps, batch, lr)


def train_classifier(kind: str, seed: int, steps: int, batch: int = 64, lr: float = 2e-3) -> nn.Module:
    """Digit classifier; ``kind`` is ``features`` (scores samples) or ``perceptual`` (measures distance in fits)."""
    torch.manual_seed(seed)
    return _train(CLASSIFIERS[kind](), (lambda x, y, _: (x, y), _class_loss), digits(), seed, steps, batch, lr)


CLASSIFIERS: dict[str, Callable[[], nn.Module]] = {"features": Classifier, "perceptual": Perceptual}


def accuracy(net: nn.Module) -> float:
    """Share of the digits a classifier gets right."""
    x, labels = digits()
    with torch.no_grad():
        return (net(x).argmax(1) == labels).float().mean().item()


def _noisy(x: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    sigma = (torch.randn(len(x), generator=generator) * 1.5 - 0.8).exp()
    return x, sigma, x + sigma[:, None, None, None] * torch.randn(x.shape, generator=generator)


def _denoising_loss(net: nn.Module, x: Tensor, sigma: Tensor, noisy: Tensor) -> Tensor:
    s: float = net.sigma_data  # type: ignore[assignment]
    weight = (sigma**2 + s**2) / (sigma * s) ** 2
    return (weight[:, None, None, None] * (net(noisy, sigma) - x) ** 2).mean()


def _class_loss(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(net(x), labels)


def _train(
    net: nn.Module, task: tuple[Draw, Loss], data: tuple[Tensor, Tensor], seed: int, steps: int, batch: int, lr: float
) -> nn.Module:
    """AdamW, warm-up then cosine; returns the exponential average of the weights (half-life 3% of the run)."""
    draw, loss_of = task
    generator = torch.Generator().manual_seed(seed)
    average = copy.deepcopy(net).requires_grad_(False)
    parameters = list(net.parameters())
    optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=1e-3, betas=(0.9, 0.99))
    warm = max(steps // 50, 1)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: min((k + 1) / warm, 0.5 * (1 + math.cos(math.pi * k / steps)) + 1e-3)
    )
    decay = 0.5 ** (1 / (0.03 * steps))

    def slopes(part: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(loss_of(net, *part), parameters)

    with ThreadPoolExecutor(HALVES, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for _ in tqdm(range(steps), desc=f"train {type(net).__name__}", mininterval=2):
            index = torch.randint(len(data[0]), (batch,), generator=generator)
            tensors = draw(data[0][index], data[1][index], generator)
            parts = zip(*(tensor.chunk(HALVES) for tensor in tensors), strict=True)
            for p, *halves in zip(parameters, *pool.map(slopes, parts), strict=True):
                p.grad = torch.stack(halves).mean(0)
            optimiser.step()
            schedule.step()
            for kept, p in zip(average.parameters(), parameters, strict=True):
                kept.lerp_(p.detach(), 1 - decay)
    if not all(p.isfinite().all() for p in average.parameters()):
        raise Error("training diverged: the averaged weights hold NaN or infinity; lower the learning rate")
    return average.eval()
