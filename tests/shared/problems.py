"""Problems with known answers, float64: a Gaussian, a two-point mixture, and the mixture of the golden files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import s4s

ALPHA_MIN = math.log(1e-3)


def _linear_beta(t: Tensor) -> Tensor:
    """alpha of sbi's variance preserving processes, beta from 0.01 to 10."""
    return torch.exp(-(10 - 0.01) * t**2 / 4 - 0.01 * t / 2)


PATHS = {
    "sub-VP": s4s.Path(_linear_beta, lambda t: 1 - _linear_beta(t) ** 2, t_max=1.0, t_min=1e-2),
    "floor": s4s.Path(lambda t: 1 - t, lambda t: 1e-3 + (1 - 1e-3) * t, t_max=0.999, t_min=0.0),
    "VP with a floor": s4s.Path(
        lambda t: torch.exp(ALPHA_MIN * t**2),
        lambda t: (1 - torch.exp(2 * ALPHA_MIN * t**2) + 1e-6).sqrt(),
        t_max=1.0,
        t_min=1e-3,
    ),
    "VE": s4s.Path(lambda t: 1.0, lambda t: 1e-4 * 1e5**t, t_max=1.0, t_min=0.0),
    "data at 1": s4s.Path(
        lambda t: (math.pi * t / 2).sin(), lambda t: (math.pi * t / 2).cos(), t_max=0.999, t_min=0.01
    ),
}
"""Processes that hosts have and that no class of their own covers."""


@dataclass(frozen=True)
class Gaussian:
    """Data N(0, s^2), with s for all samples or one for each. Linear; x scales as the standard deviation does."""

    s: float | Tensor = 0.7

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return x * self.s**2 / (self.s**2 + sigma**2)

    def exact(self, x: Tensor, sigma: Tensor, sigma_last: Tensor) -> Tensor:
        return x * ((sigma_last**2 + self.s**2) / (sigma**2 + self.s**2)).sqrt()


@dataclass(frozen=True)
class TwoPoints:
    """Data -1 or +1, evenly. Nonlinear; the probability flow keeps the quantile of x, which gives the solution."""

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.tanh(x / sigma**2)

    def exact(self, x: Tensor, sigma: Tensor, sigma_last: Tensor) -> Tensor:
        quantile = self.above_half(x.abs(), sigma)
        low, high = torch.zeros_like(x), x.abs() + 2
        for _ in range(80):  # bisection, to the last bit
            middle = (low + high) / 2
            below = self.above_half(middle, sigma_last) < quantile
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return x.sign() * (low + high) / 2

    @staticmethod
    def above_half(x: Tensor, sigma: Tensor) -> Tensor:
        """CDF at x of the noisy data, less 1/2 and doubled; odd in x, so that it keeps its digits near 0."""
        return (torch.erf((x - 1) / (sigma * 2**0.5)) + torch.erf((x + 1) / (sigma * 2**0.5))) / 2


@dataclass(frozen=True)
class Mixture:
    """The Gaussian mixture of the golden files, any process: ``x0 ~ sum_k w_k N(mu_k, s_k^2 I)``."""

    w: Tensor  # [K]
    mu: Tensor  # [K, C, H, W]
    s: Tensor  # [K]

    @classmethod
    def load(cls, golden: Mapping[str, Any]) -> Mixture:
        return cls(*(torch.as_tensor(golden[f"model/{key}"]) for key in ("w", "mu", "s")))

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        r, offset, v = self._posterior(x, sigma)
        means = self.mu + (self.s**2 / v).reshape(-1, 1, 1, 1) * offset
        return (r[..., None, None, None] * means).sum(1)

    def eps(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Noise prediction, without dividing by sigma."""
        r, offset, v = self._posterior(x, sigma)
        return sigma * ((r / v)[..., None, None, None] * offset).sum(1)

    def _posterior(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Responsibilities [B, K], offsets from the means [B, K, C, H, W] and variances [K]."""
        v, offset = self.s**2 + sigma**2, x[:, None] - self.mu
        distance = offset.square().flatten(2).sum(-1)
        r = (self.w.log() - distance / (2 * v) - self.mu[0].numel() / 2 * v.log()).softmax(-1)
        return r, offset, v

    def network(self, process: Any, prediction: str) -> Callable[..., Tensor]:
        """The perfect network of a process: ``net(x_t, model_time)``, from its own state and time."""

        def net(x_t: Tensor, model_time: Tensor) -> Tensor:
            t, towards_data = model_time[0].double(), 1 if process.time_range[0] < process.time_range[1] else -1
            if prediction == "velocity":
                t = t if towards_data > 0 else 1 - t
            elif hasattr(process, "alphas_cumprod"):  # its network is told the index
                t = (t + 1) / len(process.alphas_cumprod)
            alpha, sigma = process.alpha(t), process.sigma(t)
            d_alpha, d_sigma = ((f(t + 1e-6) - f(t - 1e-6)) / 2e-6 for f in (process.alpha, process.sigma))
            D, eps = self.denoise(x_t / alpha, sigma / alpha), self.eps(x_t / alpha, sigma / alpha)
            velocity = towards_data * (d_alpha * D + d_sigma * eps)
            return {"x0": D, "eps": eps, "v": alpha * eps - sigma * D, "flow": eps - D, "score": -eps / sigma,
                    "velocity": velocity}[prediction]  # fmt: skip

        return net
