"""Training of the embedded benchmarks' networks. Every draw comes from one generator: the seed decides the weights.

A batch is cut in two and each half runs on a thread of its own, every operation single-threaded: the result does not
depend on the number of cores, and two cores are used without waiting for each other inside every operation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from s4s.errors import Error
from s4s.models.digits import CLASSES, Autoencoder, DigitsUNet, digits
from s4s.models.digits_model import alphas_cumprod

Draw = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, ...]]
"""``(images, labels, generator) -> the tensors of one training batch``."""
Loss = Callable[..., Tensor]
"""``(net, *tensors of a batch) -> loss``."""
HALVES = 2


@dataclass(frozen=True)
class Kind:
    """What a denoiser is trained for.

    Args:
        process: ``edm``, ``vp`` or ``flow``.
        label_dropout: share of a batch whose class is "none"; None is an unconditional network.
        latents: channels of the latents of an autoencoder that is trained first; 0 is pixels.
        autoencoder_steps: of that.
    """

    process: str = "edm"
    label_dropout: float | None = None
    latents: int = 0
    autoencoder_steps: int = 1000


def train_denoiser(
    seed: int, steps: int, batch: int = 128, lr: float = 2e-3, channels: int = 32, kind: Kind = Kind()
) -> nn.Module:
    """The network of a kind; the weights are averaged.

    ``edm``: Karras et al. 2022, Table 1, with ``ln sigma ~ N(-0.8, 1.5^2)``. ``vp``: the noise, at steps drawn evenly
    (Ho et al. 2020, Eq. 14). ``flow``: the velocity, at times drawn evenly (Liu et al. 2023, Eq. 1).
    """
    x, y = digits()
    autoencoder = train_autoencoder(seed, kind.autoencoder_steps, kind.latents) if kind.latents else None
    if autoencoder is not None:
        with torch.no_grad():
            x = autoencoder.encode(x)
    torch.manual_seed(seed)
    classes = 0 if kind.label_dropout is None else CLASSES
    net = DigitsUNet(channels, x.std().item(), kind.process, classes, kind.latents)
    if net.autoencoder is not None and autoencoder is not None:
        net.autoencoder.load_state_dict(autoencoder.state_dict())
        net.autoencoder.requires_grad_(False)
    loss = _denoising_loss if kind.process == "edm" else _plain_loss
    return _train(net, (_drawing(kind), loss), (x, y), seed, steps, batch, lr)


def train_autoencoder(seed: int, steps: int, latents: int, batch: int = 128, lr: float = 2e-3) -> Autoencoder:
    """The autoencoder of latents, which bear noise of a twentieth of their deviation."""
    torch.manual_seed(seed)
    net = _train(Autoencoder(latents), (_jittered, _rebuilding_loss), digits(), seed, steps, batch, lr)
    assert isinstance(net, Autoencoder)
    with torch.no_grad():
        net.scale.copy_(1 / net.encode(digits()[0]).std())
    return net


def train_classifier(
    make: Callable[[], nn.Module], seed: int, steps: int, batch: int = 64, lr: float = 2e-3
) -> nn.Module:
    """Digit classifier: ``Classifier``, which scores samples, or ``Perceptual``, which measures distance in fits."""
    torch.manual_seed(seed)
    return _train(make(), (lambda x, y, _: (x, y), _class_loss), digits(), seed, steps, batch, lr)


def accuracy(net: nn.Module) -> float:
    """Share of the digits a classifier gets right."""
    x, labels = digits()
    with torch.no_grad():
        return (net(x).argmax(1) == labels).float().mean().item()


def _drawing(kind: Kind) -> Draw:
    """What a batch of a kind is: targets, times and noised images, and labels where the network is told them."""
    noised, share = NOISED[kind.process], kind.label_dropout
    if share is None:
        return lambda x, labels, generator: noised(x, generator)

    def labelled(x: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
        parts = noised(x, generator)
        dropped = torch.rand(len(x), generator=generator) < share
        return *parts, torch.where(dropped, CLASSES, labels)

    return labelled


def _noisy(x: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    sigma = (torch.randn(len(x), generator=generator) * 1.5 - 0.8).exp()
    return x, sigma, x + sigma[:, None, None, None] * torch.randn(x.shape, generator=generator)


def _stepped(x: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    step = torch.randint(1000, (len(x),), generator=generator)
    eps = torch.randn(x.shape, generator=generator)
    kept = alphas_cumprod().float()[step][:, None, None, None]
    return eps, step.float(), kept.sqrt() * x + (1 - kept).sqrt() * eps


def _flowing(x: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    time = torch.rand(len(x), generator=generator)
    eps = torch.randn(x.shape, generator=generator)
    return eps - x, time, torch.lerp(x, eps, time[:, None, None, None])


NOISED: dict[str, Callable[[Tensor, torch.Generator], tuple[Tensor, ...]]] = {
    "edm": _noisy,
    "vp": _stepped,
    "flow": _flowing,
}
"""``(images, generator) -> target, time, noised images`` of a process."""


def _denoising_loss(net: nn.Module, x: Tensor, sigma: Tensor, noisy: Tensor, *labels: Tensor) -> Tensor:
    s: float = net.sigma_data  # type: ignore[assignment]
    weight = (sigma**2 + s**2) / (sigma * s) ** 2
    return (weight[:, None, None, None] * (net(noisy, sigma, *labels) - x) ** 2).mean()


def _plain_loss(net: nn.Module, target: Tensor, time: Tensor, noisy: Tensor, *labels: Tensor) -> Tensor:
    return F.mse_loss(net(noisy, time, *labels), target)


def _jittered(x: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    return x, torch.randn(len(x), 1, *[side // 2 for side in x.shape[2:]], generator=generator)


def _rebuilding_loss(net: nn.Module, x: Tensor, noise: Tensor) -> Tensor:
    z = net.encoder(x)  # type: ignore[operator]
    return F.mse_loss(net.decoder(z + 0.05 * noise), x) + 1e-3 * (z.square().mean() - 1).square()  # type: ignore[operator]


def _class_loss(net: nn.Module, x: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(net(x), labels)


def _train(
    net: nn.Module, task: tuple[Draw, Loss], data: tuple[Tensor, Tensor], seed: int, steps: int, batch: int, lr: float
) -> nn.Module:
    """AdamW, warm-up then cosine; returns the exponential average of the weights (half-life 3% of the run)."""
    draw, loss_of = task
    generator = torch.Generator().manual_seed(seed)
    average = copy.deepcopy(net).requires_grad_(False)
    pairs = [(kept, p) for kept, p in zip(average.parameters(), net.parameters(), strict=True) if p.requires_grad]
    parameters = [p for _, p in pairs]
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
            for kept, p in pairs:
                kept.lerp_(p.detach(), 1 - decay)
    if not all(p.isfinite().all() for p in average.parameters()):
        raise Error("training diverged: the averaged weights hold NaN or infinity; lower the learning rate")
    return average.eval()
