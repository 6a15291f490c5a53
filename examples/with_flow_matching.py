"""flow-matching: velocity networks with the data at t = 1, its ODE solver, and a solver learned for each path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from compare import CALLS, Home, Perceptron, Sampler, ring, show, train
from flow_matching.path import AffineProbPath, CondOTProbPath
from flow_matching.path.scheduler import CosineScheduler, VPScheduler
from flow_matching.solver import ODESolver
from flow_matching.utils import ModelWrapper
from torch import Tensor

import s4s


class Velocity(ModelWrapper):
    """As flow-matching calls its models: by keywords, with one time for all rows."""

    def forward(self, x: Tensor, t: Tensor, **extras: object) -> Tensor:
        return self.model(x, t)


def condot() -> Home:
    path, model = trained(CondOTProbPath())

    # The adapter
    process = s4s.Flow()
    denoise = process.denoiser(lambda x, t: model(x=x, t=t[0]), prediction="velocity")

    return home("flow-matching CondOT", path, model, process, denoise)


def cosine() -> Home:
    path, model = trained(AffineProbPath(CosineScheduler()))
    at = path.scheduler

    # The adapter
    process = s4s.Path(lambda t: at(t).alpha_t, lambda t: at(t).sigma_t, t_max=0.999, t_min=0.001)
    denoise = process.denoiser(lambda x, t: model(x=x, t=t[0]), prediction="velocity")

    return home("flow-matching cosine", path, model, process, denoise)


def vp() -> Home:
    path, model = trained(AffineProbPath(VPScheduler()))
    at = path.scheduler

    # The adapter
    process = s4s.Path(lambda t: at(t).alpha_t, lambda t: at(t).sigma_t, t_max=0.9995, t_min=0.0)
    denoise = process.denoiser(lambda x, t: model(x=x, t=t[0]), prediction="velocity")

    return home("flow-matching VP", path, model, process, denoise)


HOMES: list[Callable[[], Home]] = [condot, cosine, vp]


def trained(path: AffineProbPath) -> tuple[AffineProbPath, Velocity]:
    net, generator = Perceptron(), torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        x_1, t = ring(256, generator), torch.rand(256, generator=generator) * 0.999
        drawn = path.sample(x_0=torch.randn(256, 2, generator=generator), x_1=x_1, t=t)
        return (net(drawn.x_t, drawn.t) - drawn.dx_t).square().mean()

    train(net, loss)
    return path, Velocity(net)


def home(name: str, path: AffineProbPath, model: Velocity, process: s4s.Process, denoise: object) -> Home:
    solver = ODESolver(velocity_model=model)

    def own(method: str, steps: int) -> Sampler:
        grid = torch.linspace(0, 1, steps + 1)
        return lambda noise: solver.sample(x_init=noise, method=method, step_size=None, time_grid=grid)

    def predicted(x: Tensor, level: Tensor) -> Tensor:
        t = process.time(level).to(x) if name != "flow-matching CondOT" else 1 / (1 + level)
        x_t = path.scheduler(t).alpha_t * x
        return path.velocity_to_target(model(x=x_t, t=t), x_t, t)

    few = {"euler": own("euler", CALLS), "midpoint": own("midpoint", CALLS // 2)}
    return Home(name, process, denoise, predicted, own("midpoint", 400), few)


if __name__ == "__main__":
    show(HOMES, Path("homes"))
