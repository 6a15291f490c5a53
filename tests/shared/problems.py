"""Problems with known answers, float64: a Gaussian, a two-point mixture, and the mixture of the golden files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
            t = model_time[0].double()
            if hasattr(process, "alphas_cumprod"):  # its network is told the index
                t = (t + 1) / len(process.alphas_cumprod)
            alpha, sigma = process.alpha(t), process.sigma(t)
            D, eps = self.denoise(x_t / alpha, sigma / alpha), self.eps(x_t / alpha, sigma / alpha)
            return {"x0": D, "eps": eps, "v": alpha * eps - sigma * D, "flow": eps - D}[prediction]

        return net
