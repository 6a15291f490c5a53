"""Noise processes: how alpha, sigma and the network's own time relate, and how a network becomes ``denoise``.

A process is ``x_t = alpha(t) x_0 + sigma(t) eps``. Everything else in the package lives in EDM coordinates, where the
state is divided by alpha and the level is ``sigma(t) / alpha(t)``. Here, and only here, are both known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, choose
from s4s.solver import Denoise

Network = Callable[..., Tensor]
Number = float | Tensor


@dataclass(frozen=True)
class Process:
    """Base of the noise processes. Times and levels are float64 tensors or numbers; arrays keep their shape."""

    def alpha(self, t: Number) -> Tensor:
        """Signal scale at the process's own time ``t``."""
        raise NotImplementedError

    def sigma(self, t: Number) -> Tensor:
        """Noise scale at the process's own time ``t``."""
        raise NotImplementedError

    def time(self, level: Number) -> Tensor:
        """The process's own time at an EDM level ``sigma(t)/alpha(t)``; inverse of ``level``, differentiable."""
        raise NotImplementedError

    def model_time(self, level: Number) -> Tensor:
        """What the network is told at an EDM level; the process's own time unless a subclass says otherwise."""
        return self.time(level)

    @property
    def time_range(self) -> tuple[float, float]:
        """First and last time of sampling, ``(t_max, t_min)``."""
        raise NotImplementedError

    def level(self, t: Number) -> Tensor:
        """EDM level ``sigma(t) / alpha(t)``."""
        return self.sigma(t) / self.alpha(t)

    def to_edm(self, x: Tensor, t: Number) -> Tensor:
        """State of the process at time ``t`` -> EDM coordinates."""
        return x / self.alpha(t).to(x)

    def from_edm(self, x: Tensor, sigma: Number) -> Tensor:
        """State in EDM coordinates at level ``sigma`` -> the process's own coordinates."""
        return x * self.alpha(self.time(sigma)).to(x)

    def denoiser(self, net: Network, prediction: str = "eps", **condition: Any) -> Denoise:
        """Turn a network of this process into ``denoise(x, sigma) -> x_0``.

        Args:
            net: called as ``net(x_t, model_time, **condition)``: x_t [B, ...] in the process's own coordinates,
                model_time [B]; returns the prediction, [B, ...].
            prediction: ``eps`` (noise), ``x0`` (data), ``v`` (``alpha eps - sigma x_0``, Salimans & Ho 2022) or
                ``flow`` (``eps - x_0``, rectified flow).
            condition: keyword arguments handed to the network unchanged.

        Raises:
            Error: unknown prediction type.
        """
        if prediction not in PREDICTIONS:
            raise choose("prediction", prediction, PREDICTIONS)
        to_x0 = PREDICTIONS[prediction]

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            t = self.time(sigma)
            alpha, noise = (_like(value, x) for value in (self.alpha(t), self.sigma(t)))
            x_t = alpha * x
            model_time = self.model_time(sigma).to(x).expand(x.shape[0])
            return to_x0(x_t, net(x_t, model_time, **condition), alpha, noise)

        return denoise


PREDICTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "eps": lambda x, out, alpha, sigma: (x - sigma * out) / alpha,
    "x0": lambda x, out, alpha, sigma: out,
    "v": lambda x, out, alpha, sigma: (alpha * x - sigma * out) / (alpha**2 + sigma**2),
    "flow": lambda x, out, alpha, sigma: (x - sigma * out) / (alpha + sigma),
}


@dataclass(frozen=True)
class EDM(Process):
    """Variance exploding in the EDM form (Karras et al. 2022): ``alpha = 1``, ``sigma = t``."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        _check_range("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    @property
    def time_range(self) -> tuple[float, float]:
        return self.sigma_max, self.sigma_min

    def alpha(self, t: Number) -> Tensor:
        return torch.ones_like(_double(t))

    def sigma(self, t: Number) -> Tensor:
        return _double(t)

    def time(self, level: Number) -> Tensor:
        return _double(level)


class _Variance:
    """The levels at the ends of a process that is defined by a range of its own time."""

    t_min: float
    t_max: float
    level: Callable[[Number], Tensor]

    @property
    def time_range(self) -> tuple[float, float]:
        return self.t_max, self.t_min

    @property
    def sigma_min(self) -> float:
        return self.level(self.t_min).item()

    @property
    def sigma_max(self) -> float:
        return self.level(self.t_max).item()


@dataclass(frozen=True)
class VPLinear(_Variance, Process):
    """Variance preserving, linear beta (Song et al. 2021): ``log alpha = -(beta_1-beta_0) t^2/4 - beta_0 t/2``."""

    beta_0: float = 0.1
    beta_1: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        _check_range("t_min", self.t_min, "t_max", self.t_max)

    def alpha(self, t: Number) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Number) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def time(self, level: Number) -> Tensor:
        # log(1 + level^2) = -2 log alpha = (beta_1-beta_0) t^2/2 + beta_0 t, the positive root without cancellation
        c = 2 * torch.log1p(_double(level) ** 2)
        slope = self.beta_1 - self.beta_0
        return c / (self.beta_0 + (self.beta_0**2 + slope * c).sqrt())

    def _log_alpha(self, t: Number) -> Tensor:
        t = _double(t)
        return -(self.beta_1 - self.beta_0) * t**2 / 4 - self.beta_0 * t / 2


@dataclass(frozen=True)
class VPDiscrete(_Variance, Process):
    """Variance preserving from a table of K ``alphas_cumprod``, continued to real times.

    ``log alpha`` is piecewise linear through ``t = (k+1)/K`` (DPM-Solver, Lu et al. 2022, App. D); the network sees
    the real index ``K t - 1``, 0 to K-1, never rounded.
    """

    alphas_cumprod: Sequence[float] | Tensor
    t_min: float = 0.0
    t_max: float = 1.0
    _time: Tensor = field(init=False, repr=False)
    _table: Tensor = field(init=False, repr=False)
    _copies: dict[torch.device, tuple[Tensor, Tensor]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        acp = torch.as_tensor(self.alphas_cumprod, dtype=torch.float64).detach().cpu()
        if acp.ndim != 1 or len(acp) < 2 or not ((acp > 0) & (acp < 1)).all() or not (acp.diff() < 0).all():
            raise Error("alphas_cumprod must be a falling sequence of at least two numbers between 0 and 1")
        object.__setattr__(self, "_table", acp.log() / 2)
        object.__setattr__(self, "_time", torch.arange(1, len(acp) + 1, dtype=torch.float64) / len(acp))
        object.__setattr__(self, "_copies", {})
        object.__setattr__(self, "t_min", max(self.t_min, 1 / len(acp)))
        _check_range("t_min", self.t_min, "t_max", self.t_max)

    def alpha(self, t: Number) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Number) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def time(self, level: Number) -> Tensor:
        log_alpha = -torch.log1p(_double(level) ** 2) / 2
        time, table = self._on(log_alpha.device)
        return _interpolate(log_alpha, table.flip(0), time.flip(0))

    def model_time(self, level: Number) -> Tensor:
        return len(self._time) * self.time(level) - 1

    def _log_alpha(self, t: Number) -> Tensor:
        t = _double(t)
        return _interpolate(t, *self._on(t.device))

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Times and table on a device, copied there once: a copy a step would make the host wait for the device."""
        if device not in self._copies:
            self._copies[device] = (self._time.to(device), self._table.to(device))
        return self._copies[device]


@dataclass(frozen=True)
class Flow(_Variance, Process):
    """Rectified flow: ``alpha = 1 - t``, ``sigma = t``. The level is infinite at ``t = 1``, sampling starts below."""

    t_min: float = 1e-3
    t_max: float = 0.999

    def __post_init__(self) -> None:
        _check_range("t_min", self.t_min, "t_max", self.t_max)
        if self.t_max >= 1:
            raise Error(f"t_max = {self.t_max} must be below 1: a flow's level t/(1-t) is infinite at t = 1")

    def alpha(self, t: Number) -> Tensor:
        return 1 - _double(t)

    def sigma(self, t: Number) -> Tensor:
        return _double(t)

    def time(self, level: Number) -> Tensor:
        level = _double(level)
        return level / (1 + level)


def _double(value: Number) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64)


def _like(value: Tensor, x: Tensor) -> Tensor:
    """A scalar or a [B] vector, in the dtype and device of x and broadcastable against it."""
    value = value.to(x)
    return value.reshape(-1, *[1] * (x.ndim - 1)) if value.ndim else value


def _check_range(low_name: str, low: float, high_name: str, high: float) -> None:
    if not 0 < low < high:
        raise Error(f"needs 0 < {low_name} < {high_name}, got {low_name} = {low} and {high_name} = {high}")


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear through (xs, ys), xs rising; continued linearly outside. Differentiable in x.

    ``take`` and not ``xs[i]``, which would fetch a scalar ``i`` from the device.
    """
    i = torch.searchsorted(xs, x.detach().contiguous()).clamp(1, len(xs) - 1)
    x0, x1, y0, y1 = xs.take(i - 1), xs.take(i), ys.take(i - 1), ys.take(i)
    return y0 + (x - x0) / (x1 - x0) * (y1 - y0)
