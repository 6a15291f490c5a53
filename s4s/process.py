"""Noise processes: how alpha, sigma and the network's own time relate, and how a network becomes ``denoise``.

A process is ``x_t = alpha(t) x_0 + sigma(t) eps``. Everything else in the package lives in EDM coordinates, where the
state is divided by alpha and the level is ``sigma(t) / alpha(t)``. Here, and only here, are both known.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, require_choice
from s4s.solver import Denoise
from s4s.values import amount, doubles, require_function

Network = Callable[..., Tensor]
Number = float | Tensor


@dataclass(frozen=True, eq=False)
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

    @property
    def levels(self) -> tuple[float, float]:
        """Lowest and highest EDM level of sampling."""
        first, last = self.time_range
        return self.level(last).item(), self.level(first).item()

    @property
    def sigma_min(self) -> float:
        """Lowest EDM level of sampling."""
        return self.levels[0]

    @property
    def sigma_max(self) -> float:
        """Highest EDM level of sampling."""
        return self.levels[1]

    def level(self, t: Number) -> Tensor:
        """EDM level ``sigma(t) / alpha(t)``."""
        return self.sigma(t) / self.alpha(t)

    def rates(self, t: Number) -> tuple[Tensor, Tensor]:
        """Derivatives of alpha and sigma by the process's own time ``t``."""
        return slope(self.alpha, double(t)), slope(self.sigma, double(t))

    def to_edm(self, x: Tensor, sigma: Number) -> Tensor:
        """State [B, ...] in the process's own coordinates at a level, or one for each row -> EDM coordinates."""
        return x / _like(self.alpha(self.time(sigma)), x)

    def from_edm(self, x: Tensor, sigma: Number) -> Tensor:
        """State [B, ...] in EDM coordinates at a level, or one for each row -> the process's own coordinates."""
        return x * _like(self.alpha(self.time(sigma)), x)

    def denoiser(self, net: Network, prediction: str = "eps", **condition: Any) -> Denoise:
        """Turn a network of this process into ``denoise(x, sigma) -> x_0``.

        Args:
            net: called as ``net(x_t, model_time, **condition)``: x_t [B, ...] in the process's own coordinates,
                model_time [B]; returns the prediction, [B, ...].
            prediction: ``eps`` (noise), ``x0`` (data), ``v`` (``alpha eps - sigma x_0``, Salimans & Ho 2022), ``flow``
                (``eps - x_0``, rectified flow), ``score`` (``-eps / sigma``), or ``velocity``: the time derivative of
                the state towards data at t = 1, as flow matching has it (``x_0 - eps`` for ``Flow``). The network is
                then told ``1 - t`` of a process that has its noise at t = 1.
            condition: keyword arguments handed to the network unchanged.

        Raises:
            Error: unknown prediction type. ``denoise``: a network whose output is no tensor of its input's shape.
        """
        require_function(net, "a network", "lambda x, t: net(x, t)")
        net = _as_many(net)
        if prediction == "velocity":
            return _marked(self._towards_data(net, condition), self)
        require_choice("prediction", prediction, [*PREDICTIONS, "velocity"])
        to_x0 = PREDICTIONS[prediction]

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            t = self.time(sigma)
            alpha, noise = (_like(value, x) for value in (self.alpha(t), self.sigma(t)))
            x_t = alpha * x
            model_time = _told(self.model_time(sigma), x)
            return to_x0(x_t, net(x_t, model_time, **condition), alpha, noise)

        return _marked(denoise, self)

    def _towards_data(self, net: Network, condition: dict[str, Any]) -> Denoise:
        """``denoiser`` of a velocity, ``v = alpha' x_0 + sigma' eps`` in a time that ends at data."""
        first, last = self.time_range
        sign = 1 if first < last else -1

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            t = self.time(sigma)
            model_time = self.model_time(sigma) if sign > 0 else 1 - t
            scales = (self.alpha(t), self.sigma(t), *self.rates(t))
            alpha, noise, d_alpha, d_noise = (_like(value, x) for value in scales)
            x_t = alpha * x
            out = sign * net(x_t, _told(model_time, x), **condition)
            return (d_noise * x_t - noise * out) / (d_noise * alpha - d_alpha * noise)

        return denoise


PREDICTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = {
    "eps": lambda x, out, alpha, sigma: (x - sigma * out) / alpha,
    "x0": lambda x, out, alpha, sigma: out,
    "v": lambda x, out, alpha, sigma: (alpha * x - sigma * out) / (alpha**2 + sigma**2),
    "flow": lambda x, out, alpha, sigma: (x - sigma * out) / (alpha + sigma),
    "score": lambda x, out, alpha, sigma: (x + sigma**2 * out) / alpha,
}


def _as_many(net: Network) -> Network:
    """The network, its output held to the shape of its input: other shapes would broadcast."""

    def checked(x: Tensor, model_time: Tensor, **condition: Any) -> Tensor:
        out = net(x, model_time, **condition)
        if not isinstance(out, Tensor):
            raise Error(f"the network must return a tensor, got a {type(out).__name__}; for diffusers' networks give"
                        " lambda x, t: net(x, t).sample")  # fmt: skip
        if out.shape != x.shape:
            raise Error(f"the network returns {list(out.shape)} for a state of {list(x.shape)}; if it also predicts a"
                        " variance, give the mean alone, such as lambda x, t: net(x, t)[:, :3]")  # fmt: skip
        return out

    return checked


def _marked(denoise: Denoise, process: Process) -> Denoise:
    """With its process, whose levels ``s4s.sample`` compares with a solver's."""
    denoise.process = process  # type: ignore[attr-defined]
    return any_levels(denoise)


def any_levels(denoise: Denoise) -> Denoise:
    """Mark a denoiser that takes one level or one for each row: a fit then need not find out."""
    denoise.any_levels = True  # type: ignore[attr-defined]
    return denoise


@dataclass(frozen=True)
class EDM(Process):
    """Variance exploding in the EDM form (Karras et al. 2022): ``alpha = 1``, ``sigma = t``."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        check_range("sigma_min", self.sigma_min, "sigma_max", self.sigma_max)

    @property
    def time_range(self) -> tuple[float, float]:
        return self.sigma_max, self.sigma_min

    def alpha(self, t: Number) -> Tensor:
        return torch.ones_like(double(t))

    def sigma(self, t: Number) -> Tensor:
        return double(t)

    def time(self, level: Number) -> Tensor:
        return double(level)


class Timed:
    """The ends of a process that is defined by a range of its own time."""

    t_min: float
    t_max: float

    @property
    def time_range(self) -> tuple[float, float]:
        return self.t_max, self.t_min


@dataclass(frozen=True)
class VPLinear(Timed, Process):
    """Variance preserving, linear beta (Song et al. 2021): ``log alpha = -(beta_1-beta_0) t^2/4 - beta_0 t/2``."""

    beta_0: float = 0.1
    beta_1: float = 20.0
    t_min: float = 1e-3
    t_max: float = 1.0

    def __post_init__(self) -> None:
        check_range("t_min", self.t_min, "t_max", self.t_max)
        first = amount(self.beta_0, "beta_0")
        last = first + (amount(self.beta_1, "beta_1") - first) * self.t_max
        if last < 0 or first == last == 0:
            raise Error(f"beta_0 = {self.beta_0}, beta_1 = {self.beta_1}: noise must grow up to t_max = {self.t_max}")

    def alpha(self, t: Number) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Number) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def time(self, level: Number) -> Tensor:
        # log(1 + level^2) = -2 log alpha = (beta_1-beta_0) t^2/2 + beta_0 t, the positive root without cancellation
        c = 2 * torch.log1p(double(level) ** 2)
        slope = self.beta_1 - self.beta_0
        return c / (self.beta_0 + (self.beta_0**2 + slope * c).sqrt())

    def _log_alpha(self, t: Number) -> Tensor:
        t = double(t)
        return -(self.beta_1 - self.beta_0) * t**2 / 4 - self.beta_0 * t / 2


@dataclass(frozen=True)
class Flow(Timed, Process):
    """Rectified flow: ``alpha = 1 - t``, ``sigma = t``. The level is infinite at ``t = 1``, sampling starts below.

    Right for the velocity of any path between noise and data, whatever it was trained on: the state at a time obeys
    the same equation. Networks with the data at t = 1 are ``prediction="velocity"``.
    """

    t_min: float = 1e-3
    t_max: float = 0.999

    def __post_init__(self) -> None:
        check_range("t_min", self.t_min, "t_max", self.t_max)
        if self.t_max >= 1:
            raise Error(f"t_max = {self.t_max} must be below 1: a flow's level t/(1-t) is infinite at t = 1")

    def alpha(self, t: Number) -> Tensor:
        return 1 - double(t)

    def sigma(self, t: Number) -> Tensor:
        return double(t)

    def time(self, level: Number) -> Tensor:
        level = double(level)
        return level / (1 + level)

    def rates(self, t: Number) -> tuple[Tensor, Tensor]:
        one = torch.ones_like(double(t))
        return -one, one


def double(value: Number) -> Tensor:
    return value.double() if isinstance(value, Tensor) else doubles(value, "a time or noise level")


def slope(f: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """Derivative of ``f``, which acts on every entry by itself; also where gradients are off."""
    with torch.inference_mode(False), torch.enable_grad():
        at = t.detach().clone().requires_grad_()
        value = f(at)
        if not value.requires_grad:
            return torch.zeros_like(at).detach()
        (found,) = torch.autograd.grad(value.sum(), at)
    return found


def _like(value: Tensor, x: Tensor) -> Tensor:
    """A number, or one for each row of x, in the dtype and device of x and broadcastable against it."""
    value = value.to(x)
    if value.ndim and value.numel() not in (1, len(x)):
        raise Error(f"a level is one number or one for each of the {len(x)} rows of x, got shape {list(value.shape)}")
    return value.reshape(-1, *[1] * (x.ndim - 1)) if value.ndim else value


def _told(time: Tensor, x: Tensor) -> Tensor:
    """What the network is told of states [B, ...]: [B]."""
    return (time.flatten() if time.ndim > 1 else time).to(x).expand(x.shape[0])


def check_range(low_name: str, low: float, high_name: str, high: float) -> None:
    try:
        rising = 0 < low < high < math.inf
    except TypeError:  # text
        rising = False
    if not rising:
        raise Error(f"needs 0 < {low_name} < {high_name}, got {low_name} = {low!r} and {high_name} = {high!r}")


def interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear through (xs, ys), xs rising; continued linearly outside. Differentiable in x.

    ``take`` and not ``xs[i]``, which would fetch a scalar ``i`` from the device.
    """
    i = torch.searchsorted(xs, x.detach().contiguous()).clamp(1, len(xs) - 1)
    x0, x1, y0, y1 = xs.take(i - 1), xs.take(i), ys.take(i - 1), ys.take(i)
    return y0 + (x - x0) / (x1 - x0) * (y1 - y0)
