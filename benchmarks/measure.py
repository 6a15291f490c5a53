"""Shared by the benchmarks: networks S and M, floors, and ratios of interleaved medians."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

import s4s
from s4s.learn.distances import distance
from s4s.learn.family import family
from s4s.learn.memory import SavedBytes
from s4s.models.ddpmpp import UNetConfig
from s4s.models.edm import EDMNetwork, skeleton
from s4s.solver import Denoise

PROCESS = s4s.EDM(0.002, 80.0)
S = UNetConfig(16, model_channels=32, channel_mult=(1, 2), blocks=2, attention=(8,))  # 1.03 M parameters
M = UNetConfig(32, model_channels=64, channel_mult=(1, 2, 2), blocks=2, attention=(16,))  # 7.0 M parameters
GIB = 2**30


def network(config: UNetConfig, device: str = "cpu") -> EDMNetwork:
    """Random weights: timing and bytes do not depend on them."""
    if device == "meta":
        return skeleton(config).eval().requires_grad_(False)
    torch.manual_seed(0)
    net = EDMNetwork(config)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.05)
    return net.to(device).eval().requires_grad_(False)


class Task:
    """One network, batch and number of evaluations: what a sampler and a fitting step do, and their floors."""

    def __init__(self, config: UNetConfig, batch: int, nfe: int, device: str = "cpu") -> None:
        self.family = family(s4s.solver("ipndm", s4s.grid("edm", PROCESS, nfe), order=3), "lms")
        self.nfe, self.net = nfe, network(config, device)
        shape = (config.channels, config.resolution, config.resolution)
        self.x_T = 80 * s4s.noise(0, range(batch), shape).float().to(device)
        self.y = torch.randn_like(self.x_T)
        self.d = distance("l2")

    def forwards(self) -> None:
        """The floor of sampling."""
        with torch.no_grad():
            for sigma in self.family.start.sigma_eval:
                self.net(self.x_T, sigma)

    def sample(self) -> None:
        with torch.no_grad():
            s4s.sample(self.family.start, self.net, self.x_T)

    def floor(self) -> None:
        """The floor of a fitting step: forward and backward to the input, once an evaluation."""
        for sigma in self.family.start.sigma_eval:
            x = self.x_T.detach().requires_grad_(True)
            torch.autograd.grad(self.net(x, sigma).sum(), x)

    def step(self, denoise: Denoise) -> Tensor:
        """A fitting step: the gradient of the loss with respect to the solver's parameters."""
        theta = self.family.theta.clone().requires_grad_(True)
        x = s4s.sample(self.family.solver(theta), denoise, self.x_T, check=False)
        return torch.autograd.grad(self.d(x, self.y).mean(), theta)[0]

    def kept(self, denoise: Denoise) -> int:
        """The most bytes that autograd keeps at a time, parameters of the network aside; to x_T, on any device."""
        theta, x_T = (z.clone().requires_grad_(True) for z in (self.family.theta, self.x_T))
        with SavedBytes() as saved:
            x = s4s.sample(self.family.solver(theta), denoise, x_T, check=False)
            torch.autograd.grad(self.d(x, self.y).mean(), x_T)
        return saved.peak


def seconds(run: Callable[[], object], device: str = "cpu") -> float:
    """CPU time of a run; on a GPU the time until it is done."""
    if device == "cpu":
        started = time.process_time()
        run()
        return time.process_time() - started
    torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each run in each round, one after the other within a round, after a round that does not count.

    Every other round goes through them backwards, so that a slow drift of the machine favours none.
    """
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for k in range(rounds + 1):
        for name in list(runs) if k % 2 else reversed(list(runs)):
            spent = seconds(runs[name], device)
            if k:
                taken[name].append(spent)
    return taken


def ratio(of: list[float], to: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(of, to, strict=True))
