"""denoising-diffusion-pytorch: v-prediction on sigmoid betas, clipped at every step, and a solver learned for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import torch
from compare import CALLS, Home, Perceptron, Sampler, ring, show, train
from denoising_diffusion_pytorch import GaussianDiffusion
from denoising_diffusion_pytorch import denoising_diffusion_pytorch as library
from torch import Tensor, nn

import s4s


class Images(nn.Module):
    """A network as the library wants it, of images of one row and two columns."""

    channels = out_dim = 1
    self_condition = False

    def __init__(self) -> None:
        super().__init__()
        self.net = Perceptron()

    def forward(self, x: Tensor, t: Tensor, x_self_cond: object = None) -> Tensor:
        return self.net(3 * x, t / 1000)


def sigmoid() -> Home:
    diffusion = trained()

    # The adapter
    process = s4s.VPDiscrete(diffusion.alphas_cumprod)
    denoise = clipped(process.denoiser(diffusion.model, prediction="v"))

    whole = s4s.VPDiscrete(diffusion.alphas_cumprod, t_max=1.0)  # its own sampling starts above where there is a signal
    levels = whole.level(torch.arange(1, 1001) / 1000)
    many = s4s.solver("ddim", torch.cat([levels.flip(0), torch.zeros(1)]))

    def predicted(x: Tensor, level: Tensor) -> Tensor:
        t = process.model_time(level).round().long().expand(len(x))
        return diffusion.model_predictions(process.from_edm(x, level), t, clip_x_start=True).pred_x_start

    def own(steps: int) -> Sampler:
        return partial(ddim, diffusion, steps)

    return Home("denoising-diffusion-pytorch v", process, denoise, predicted, own(1000), {"ddim": own(CALLS)},
                shape=(1, 1, 2), levels=levels[:-1], many=many)  # fmt: skip


HOMES: list[Callable[[], Home]] = [sigmoid]


def clipped(denoise: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """As the library clips what its network predicts."""
    return lambda x, sigma: denoise(x, sigma).clamp(-1, 1)


@torch.no_grad()
def ddim(diffusion: GaussianDiffusion, steps: int, noise: Tensor) -> Tensor:
    """The library's sampling of these noises, in its network's units."""
    diffusion.sampling_timesteps = steps
    quiet = mock.patch.object(library, "tqdm", lambda pairs, **_: pairs)
    with quiet, mock.patch.object(torch, "randn", lambda *_, **__: noise):
        return 2 * diffusion.ddim_sample(tuple(noise.shape)) - 1


def trained() -> GaussianDiffusion:
    diffusion = GaussianDiffusion(Images(), image_size=(1, 2))
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    train(diffusion, lambda: diffusion((ring(256, generator, 0.8).reshape(-1, 1, 1, 2) + 1) / 2))
    return diffusion


if __name__ == "__main__":
    show(HOMES, Path("homes"))
