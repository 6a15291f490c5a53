"""k-diffusion: a wrapped DDPM network, the samplers it ships, and a solver learned for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from compare import CALLS, Home, Perceptron, Sampler, ring, show, train
from k_diffusion import sampling
from k_diffusion.external import DiscreteEpsDDPMDenoiser
from torch import Tensor

import s4s
from s4s.integrations.k_diffusion import denoiser

ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)


def eps() -> Home:
    model = trained()

    # The adapter
    process = s4s.VPDiscrete(ALPHAS)
    denoise = denoiser(model)

    first = process.sigma_max

    def own(sampler: Callable[..., Tensor], levels: Tensor, **options: object) -> Sampler:
        return lambda noise: sampler(model, first * noise, levels, disable=True, **options)

    def predicted(x: Tensor, level: Tensor) -> Tensor:
        return model(x, level.to(x).expand(len(x)))

    kinds = {"karras": lambda n: sampling.get_sigmas_karras(n, process.sigma_min, first), "linear": model.get_sigmas}
    samplers = {"euler": sampling.sample_euler, "lms": sampling.sample_lms, "dpmpp_2m": sampling.sample_dpmpp_2m}
    few = {f"{name} {kind}": own(f, make(CALLS)) for name, f in samplers.items() for kind, make in kinds.items()}
    fine = own(sampling.sample_heun, kinds["karras"](150))
    many = s4s.solver("unipc", s4s.grid("logsnr", process, 200)).finish()  # its levels end at 0
    return Home("k-diffusion eps", process, denoise, predicted, fine, few, many=many)


HOMES: list[Callable[[], Home]] = [eps]


def trained() -> DiscreteEpsDDPMDenoiser:
    net, generator = Perceptron(), torch.Generator().manual_seed(0)
    model = DiscreteEpsDDPMDenoiser(lambda x, t: net(x, t / 1000), ALPHAS, quantize=False)

    def loss() -> Tensor:
        sigma = model.t_to_sigma(999 * torch.rand(256, generator=generator))
        return model.loss(ring(256, generator), torch.randn(256, 2, generator=generator), sigma).mean()

    train(net, loss, steps=800)
    return model


if __name__ == "__main__":
    show(HOMES, Path("homes"))
