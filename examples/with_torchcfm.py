"""torchcfm: its four kinds of conditional flow matching, sampled by torchdiffeq, and a solver learned for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from compare import CALLS, Home, Perceptron, Sampler, ring, show, train
from torch import Tensor
from torchcfm import (
    ConditionalFlowMatcher,
    ExactOptimalTransportConditionalFlowMatcher,
    TargetConditionalFlowMatcher,
    VariancePreservingConditionalFlowMatcher,
)
from torchdiffeq import odeint

import s4s


def independent() -> Home:
    return straight("torchcfm CFM", ConditionalFlowMatcher(sigma=0.1))


def transport() -> Home:
    return straight("torchcfm OT-CFM", ExactOptimalTransportConditionalFlowMatcher(sigma=0.0))


def target() -> Home:
    return straight("torchcfm target", TargetConditionalFlowMatcher(sigma=0.1))


def straight(name: str, matcher: ConditionalFlowMatcher) -> Home:
    net = trained(matcher)

    # The adapter; whatever the path was, its ODE is that of a velocity
    process = s4s.Flow()
    denoise = process.denoiser(lambda x, t: net(x, t), prediction="velocity")

    def predicted(x: Tensor, level: Tensor) -> Tensor:  # x_1 = x_t + (1 - t) v
        t = 1 / (1 + level)
        return t * x + (1 - t) * net(t * x, t)

    return home(name, net, process, denoise, predicted)


def trigonometric() -> Home:
    net = trained(VariancePreservingConditionalFlowMatcher(sigma=0.0))

    # The adapter
    process = s4s.Path(lambda t: (math.pi * t / 2).sin(), lambda t: (math.pi * t / 2).cos(), t_max=0.999, t_min=0.001)
    denoise = process.denoiser(lambda x, t: net(x, t), prediction="velocity")

    def predicted(x: Tensor, level: Tensor) -> Tensor:  # x_1 = sin x_t + (2/pi) cos v
        angle = (1 / level).atan()
        x_t = angle.sin() * x
        return angle.sin() * x_t + 2 / math.pi * angle.cos() * net(x_t, 2 / math.pi * angle)

    return home("torchcfm VP", net, process, denoise, predicted)


HOMES: list[Callable[[], Home]] = [independent, transport, target, trigonometric]


def trained(matcher: ConditionalFlowMatcher) -> Perceptron:
    net, generator = Perceptron(), torch.Generator().manual_seed(0)
    torch.manual_seed(0)

    def loss() -> Tensor:
        x_0, x_1 = torch.randn(256, 2, generator=generator), ring(256, generator)
        t, x_t, velocity = matcher.sample_location_and_conditional_flow(x_0, x_1)
        return (net(x_t, t) - velocity).square().mean()

    train(net, loss)
    return net


def home(name: str, net: Perceptron, process: s4s.Process, denoise: object, predicted: object) -> Home:
    def own(method: str, steps: int) -> Sampler:
        grid = torch.linspace(0, 1, steps + 1)
        return lambda noise: odeint(lambda t, x: net(x, t), noise, grid, method=method)[-1]

    few = {"euler": own("euler", CALLS), "midpoint": own("midpoint", CALLS // 2)}
    return Home(name, process, denoise, predicted, own("midpoint", 400), few)


if __name__ == "__main__":
    show(HOMES, Path("homes"))
