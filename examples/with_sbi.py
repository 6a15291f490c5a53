"""sbi: posteriors of NPSE by 5 calls of its score network in place of hundreds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from compare import CALLS, Home, Sampler, show
from sbi.inference import NPSE
from sbi.neural_nets.estimators import ConditionalScoreEstimator
from sbi.utils import BoxUniform
from torch import Tensor

import s4s


def simulate(theta: Tensor) -> Tensor:
    """Two moons: the posterior of an observation is two crescents (Greenberg et al. 2019)."""
    angle = torch.pi * (torch.rand(len(theta)) - 0.5)
    radius = 0.1 + 0.01 * torch.randn(len(theta))
    moon = torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], 1)
    turned = torch.stack([-(theta[:, 0] + theta[:, 1]).abs(), theta[:, 1] - theta[:, 0]], 1) / 2**0.5
    return moon + turned


def ve() -> Home:
    return home("sbi NPSE VE", "ve")


def vp() -> Home:
    return home("sbi NPSE VP", "vp")


def subvp() -> Home:
    return home("sbi NPSE sub-VP", "subvp")


HOMES: list[Callable[[], Home]] = [ve, vp, subvp]


def home(name: str, kind: str) -> Home:
    score, x_o = trained(kind), torch.zeros(1, 2)

    # The adapter
    process = s4s.Path(score.mean_t_fn, score.std_fn, t_max=1.0, t_min=score.t_min)
    denoise = process.denoiser(lambda theta, t: score(theta, x_o, t), prediction="score")

    alpha_T = process.alpha(1.0)  # it starts from the mean and standard deviation of the simulated parameters
    mean, scale = (value[0].double() / alpha_T for value in (score.mean_base, score.std_base))

    def start(noise: Tensor) -> Tensor:
        return score.mean_base + score.std_base * noise

    def own(steps: int, heun: bool = False) -> Sampler:
        return lambda noise: integrated(score, x_o, start(noise), steps, heun) / process.alpha(score.t_min).float()

    def predicted(x: Tensor, level: Tensor) -> Tensor:
        t = process.time(level)
        alpha, std = process.alpha(t).to(x), process.sigma(t).to(x)
        return (alpha * x + std**2 * score.score(alpha * x, x_o, t.to(x))) / alpha

    few = {"Euler on its ODE": own(CALLS), "Heun on its ODE": own(CALLS // 2, heun=True)}
    return Home(name, process, denoise, predicted, own(250, heun=True), few, mean=mean, scale=scale,
                dtype=torch.float32)  # fmt: skip


@torch.no_grad()
def integrated(score: ConditionalScoreEstimator, x_o: Tensor, x: Tensor, steps: int, heun: bool) -> Tensor:
    """sbi's probability flow, on its uniform times: its own solver of it is adaptive and takes no number of steps."""
    for t, later in pairwise(torch.linspace(score.t_max, score.t_min, steps + 1)):
        slope = score.ode_fn(x, x_o, t.expand(len(x)))
        if heun:
            ahead = score.ode_fn(x + (later - t) * slope, x_o, later.expand(len(x)))
            slope = (slope + ahead) / 2
        x = x + (later - t) * slope
    return x


def trained(kind: str) -> ConditionalScoreEstimator:
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    prior = BoxUniform(-torch.ones(2), torch.ones(2))
    theta = prior.sample((2000,))
    inference = NPSE(prior, sde_type=kind, show_progress_bars=False).append_simulations(theta, simulate(theta))
    found = inference.train(training_batch_size=200, learning_rate=2e-3, max_num_epochs=30)
    return found.eval().requires_grad_(False)


if __name__ == "__main__":
    show(HOMES, Path("homes"))
