"""azula: denoisers of any of its noise schedules, its own samplers, and a solver learned for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from azula import sample
from azula.denoise import KarrasDenoiser
from azula.noise import CosineSchedule, RectifiedSchedule, Schedule, VPSchedule
from compare import CALLS, Home, Perceptron, Sampler, ring, show, train
from torch import Tensor

import s4s


def cosine() -> Home:
    return home("azula cosine", CosineSchedule())


def vp() -> Home:
    return home("azula VP", VPSchedule())


def rectified() -> Home:
    return home("azula rectified", RectifiedSchedule())


HOMES: list[Callable[[], Home]] = [cosine, vp, rectified]


def home(name: str, schedule: Schedule) -> Home:
    denoiser = trained(schedule)

    # The adapter
    process = s4s.Path(schedule.alpha, schedule.sigma, t_max=1.0, t_min=0.0)
    denoise = process.denoiser(lambda x, t: denoiser(x, t).mean, prediction="x0")

    def own(kind: type[sample.Sampler], steps: int, **options: object) -> Sampler:
        sampler = kind(denoiser, steps=steps, silent=True, **options)
        sigma_T = schedule.sigma(torch.tensor(1.0))
        return lambda noise: sampler(sigma_T * noise)

    def predicted(x: Tensor, level: Tensor) -> Tensor:
        t = process.time(level).to(x)
        return denoiser(schedule.alpha(t) * x, t).mean

    few = {kind.__name__: own(kind, CALLS) for kind in (sample.DDIMSampler, sample.zABSampler, sample.vABSampler,
                                                        sample.xEABSampler, sample.zEABSampler)}  # fmt: skip
    fine = own(sample.HeunSampler, 400)
    return Home(name, process, denoise, predicted, fine, few | {"HeunSampler": own(sample.HeunSampler, CALLS // 2)})


def trained(schedule: Schedule) -> KarrasDenoiser:
    net, generator = Perceptron(), torch.Generator().manual_seed(0)
    denoiser = KarrasDenoiser(net, schedule)
    torch.manual_seed(0)
    train(denoiser, lambda: denoiser.loss(ring(256, generator), torch.rand(256, generator=generator)))
    return denoiser


if __name__ == "__main__":
    show(HOMES, Path("homes"))
