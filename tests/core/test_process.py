"""Noise processes: inverses, network predictions, and sampling in either coordinates."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from problems import PATHS, Gaussian, Mixture
from torch import Tensor

import s4s
from s4s.process import PREDICTIONS, Number, Process, double

ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2).cumprod(0)
PROCESSES = [s4s.EDM(), s4s.VPLinear(), s4s.VPDiscrete(ALPHAS), s4s.Flow(), s4s.Cosine(), *PATHS.values()]
NAMES = ["EDM", "VPLinear", "VPDiscrete", "Flow", "Cosine", *PATHS]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=NAMES)
mixture = Mixture.load(np.load(Path(__file__).parents[1] / "golden" / "compact.npz"))


def times(process: Process, n: int = 50) -> Tensor:
    """From noise to data."""
    first, last = process.time_range
    return torch.linspace(first, last, n, dtype=torch.float64)


@every_process
def test_time_and_level_are_inverse(process: Process) -> None:
    t = times(process)
    level = process.level(t)
    torch.testing.assert_close(process.time(level), t, rtol=1e-9, atol=1e-12)
    assert (level.diff() < 0).all()
    torch.testing.assert_close(level, process.sigma(t) / process.alpha(t), rtol=1e-12, atol=0)
    assert (level[0].item(), level[-1].item()) == (process.sigma_max, process.sigma_min)


@every_process
def test_time_is_differentiable(process: Process) -> None:
    t = times(process, 7)[1:-1] + 1e-4  # off the corners of the discrete table
    assert torch.autograd.gradcheck(process.time, process.level(t).requires_grad_())
    assert torch.autograd.gradcheck(process.level, t.requires_grad_())


@every_process
def test_coordinates(process: Process) -> None:
    x, t = torch.randn(3, 2, dtype=torch.float64), times(process, 5)[2]
    there = process.to_edm(x, process.level(t))
    torch.testing.assert_close(there, x / process.alpha(t))
    torch.testing.assert_close(process.from_edm(there, process.level(t)), x)
    levels = process.level(times(process, 5)[1:4])  # one for each row
    there = process.to_edm(x, levels)
    torch.testing.assert_close(there, torch.stack([process.to_edm(x[i], levels[i]) for i in range(3)]))
    torch.testing.assert_close(process.from_edm(there, levels), x)


@every_process
def test_processes_are_equal_where_their_numbers_are(process: Process) -> None:
    again = copy.deepcopy(process)
    assert process == again and hash(process) == hash(again)
    assert [process == other for other in PROCESSES].count(True) == 1


def test_tables_and_functions_are_compared() -> None:
    assert s4s.VPDiscrete(ALPHAS) == s4s.VPDiscrete(ALPHAS.tolist()) != s4s.VPDiscrete(ALPHAS.sqrt())
    ends = {"t_max": 0.999, "t_min": 1e-3}
    assert s4s.Path(torch.cos, torch.sin, **ends) == s4s.Path(torch.cos, torch.sin, **ends)
    assert s4s.Path(torch.cos, torch.sin, **ends) != s4s.Path(torch.cos, torch.tan, **ends)


class Own(Process):
    """What the docstring of the base names, and no more."""

    time_range = (80.0, 0.002)

    def alpha(self, t: Number) -> Tensor:
        return torch.ones_like(double(t))

    def sigma(self, t: Number) -> Tensor:
        return double(t)

    def time(self, level: Number) -> Tensor:
        return double(level)


def test_a_process_of_ones_own_has_grids() -> None:
    for name in ("logsnr", "edm", "uniform", "dmn"):
        assert torch.equal(s4s.grid(name, Own(), 4), s4s.grid(name, s4s.EDM(), 4))
    assert Own() != Own()


def test_noise_may_grow_ever_slower() -> None:
    process = s4s.VPLinear(20.0, 0.1)
    torch.testing.assert_close(process.time(process.level(times(process))), times(process))


@pytest.mark.parametrize("kind", [s4s.VPLinear, lambda: s4s.VPDiscrete(ALPHAS)])
def test_variance_is_preserved(kind: Callable[[], Process]) -> None:
    process = kind()
    t = times(process)
    torch.testing.assert_close(process.alpha(t) ** 2 + process.sigma(t) ** 2, torch.ones_like(t))


def test_discrete_network_is_told_the_index() -> None:
    process = s4s.VPDiscrete(ALPHAS)
    t = torch.tensor([1e-3, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(process.alpha(t) ** 2, ALPHAS[[0, 499, 999]])
    told = process.model_time(process.level(t))
    torch.testing.assert_close(told, torch.tensor([0.0, 499.0, 999.0], dtype=torch.float64), rtol=0, atol=1e-9)
    assert process.sigma_max == process.level(1.0).item()


@every_process
@pytest.mark.parametrize("prediction", [*PREDICTIONS, "velocity"])
def test_predictions_agree(process: Process, prediction: str) -> None:
    """However the perfect network says it, ``denoise`` is the mixture's posterior mean."""
    denoise = process.denoiser(mixture.network(process, prediction), prediction)
    x0 = mixture.mu[torch.arange(4) % len(mixture.mu)]
    for t in times(process, 6) * (1 - 1.3e-4) + 1e-5:  # off the corners of the discrete table, and within the ends
        sigma = process.level(t)
        x = x0 + sigma * s4s.noise(0, range(4), (3, 4, 4))
        tolerance = 1e-9 if prediction != "velocity" else 1e-6 * max(1.0, sigma.item())  # its network differentiates
        torch.testing.assert_close(denoise(x, sigma), mixture.denoise(x, sigma), rtol=0, atol=tolerance)


@every_process
def test_one_level_or_one_for_each_sample(process: Process) -> None:
    denoise = process.denoiser(lambda x, model_time: x * model_time[:, None], "eps")
    x, sigma = torch.randn(3, 2, dtype=torch.float64), process.level(times(process, 5)[1:4])
    together = denoise(x, sigma)
    for i in range(3):
        torch.testing.assert_close(together[i], denoise(x[i : i + 1], sigma[i])[0])
    assert torch.equal(denoise(x, sigma[:, None]), together)


def test_network_sees_its_own_state_time_dtype_and_condition() -> None:
    process, seen = s4s.VPLinear(), {}

    def net(x: Tensor, model_time: Tensor, **condition: Any) -> Tensor:
        seen.update(x=x, model_time=model_time, **condition)
        return torch.zeros_like(x)

    x, sigma = torch.ones(2, 3), process.level(0.5)
    D = process.denoiser(net, "eps", label=7)(x, sigma)
    alpha = process.alpha(0.5).float()
    torch.testing.assert_close(seen["x"], alpha * x)
    torch.testing.assert_close(seen["model_time"], torch.full((2,), 0.5))
    assert seen["label"] == 7 and D.dtype == torch.float32
    torch.testing.assert_close(D, x)


@every_process
def test_own_coordinates_give_the_same_samples(process: Process) -> None:
    """DDIM as written for a process, ``x' = alpha' D + sigma' eps``, against our table in EDM coordinates."""
    data, t = Gaussian(0.7), times(process, 9)
    x_T = process.sigma(t[0]) * s4s.noise(3, range(4), (2,))
    x = x_T
    for now, later in pairwise(t):
        alpha, sigma = process.alpha(now), process.sigma(now)
        D = data.denoise(x / alpha, sigma / alpha)
        eps = (x - alpha * D) / sigma
        x = process.alpha(later) * D + process.sigma(later) * eps
    solver = s4s.solver("ddim", process.level(t))
    ours = s4s.sample(solver, data.denoise, process.to_edm(x_T, solver.sigma[0]))
    torch.testing.assert_close(process.from_edm(ours, solver.sigma[-1]), x, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: s4s.EDM(0.0, 80.0), "needs 0 < sigma_min < sigma_max, got sigma_min = 0.0"),
    (lambda: s4s.EDM(80.0, 0.002), "needs 0 < sigma_min < sigma_max"),
    (lambda: s4s.EDM(sigma_max=math.inf), "needs 0 < sigma_min < sigma_max, got sigma_min = 0.002 and sigma_max = inf"),
    (lambda: s4s.EDM(sigma_max=math.nan), "needs 0 < sigma_min < sigma_max"),
    (lambda: s4s.EDM(sigma_max="80"), "sigma_max = '80'"),  # type: ignore[arg-type]
    (lambda: s4s.VPLinear(t_min=2.0), "needs 0 < t_min < t_max, got t_min = 2.0 and t_max = 1.0"),
    (lambda: s4s.VPLinear("a"), "beta_0 = 'a' must be a finite number"),  # type: ignore[arg-type]
    (lambda: s4s.VPLinear(beta_1=-1.0), "beta_1 = -1.0 must not be negative"),
    (lambda: s4s.VPLinear(20.0, 0.1, t_max=2.0), "beta_0 = 20.0, beta_1 = 0.1: noise must grow up to t_max = 2.0"),
    (lambda: s4s.VPLinear(0.0, 0.0), "noise must grow"),
    (lambda: s4s.Flow(t_max=1.0), "t_max = 1.0 must be below 1"),
    (lambda: s4s.VPDiscrete([0.5, 0.9]), "must be a falling sequence of at least two numbers between 0 and 1"),
    (lambda: s4s.VPDiscrete([1.2, 0.9]), "between 0 and 1"),
    (lambda: s4s.VPDiscrete([0.9]), "at least two numbers"),
    (lambda: s4s.VPDiscrete(ALPHAS, t_max=1.5), "t_max = 1.5 is above the last of the 1000 times, 1"),
    (lambda: s4s.VPDiscrete(ALPHAS, t_max="a"), "t_max = 'a' must be a finite number"),  # type: ignore[arg-type]
    (lambda: s4s.VPDiscrete(ALPHAS, t_min=-5), "t_min = -5 must not be negative"),
    (lambda: s4s.VPDiscrete(ALPHAS, t_min="a"), "t_min = 'a' must be a finite number"),  # type: ignore[arg-type]
    (lambda: s4s.EDM().denoiser(lambda x, t: x)(torch.ones(3, 2), torch.ones(2)), "one for each of the 3 rows"),
    (lambda: s4s.EDM().denoiser(lambda x, t: x, "noise"), "unknown prediction 'noise'; choose one of: eps,"),
])  # fmt: skip
def test_errors(call: Callable[[], object], message: str) -> None:
    with pytest.raises(s4s.Error, match=message):
        call()
