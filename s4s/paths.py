"""Processes from two functions of time, alpha(t) and sigma(t); the trigonometric path among them by name.

Any path ``x_t = alpha(t) x_0 + sigma(t) eps`` whose level rises or falls all the way is a process: sub-VP, flows with a
floor, schedules of one's own. Time may have the data at either end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.process import Number, Process, Timed, check_range, double, interpolate, slope

NODES = 16385  # of the table that the inverse starts from
ROUNDS = 6  # of Ridders' method, whose brackets shrink quadratically, from those of the table
SAME = 4 * torch.finfo(torch.float64).eps  # of a log level: near enough


@dataclass(frozen=True)
class Cosine(Timed, Process):
    """The trigonometric path ``alpha = cos(pi t/2)``, ``sigma = sin(pi t/2)``; levels 0.00157 to 63.7 by default.

    Tables of ``alphas_cumprod`` called cosine (Nichol & Dhariwal 2021) are a ``VPDiscrete``.
    """

    t_min: float = 1e-3
    t_max: float = 0.99

    def __post_init__(self) -> None:
        check_range("t_min", self.t_min, "t_max", self.t_max)
        if self.t_max >= 1:
            raise Error(f"t_max = {self.t_max} must be below 1: the level tan(pi t/2) is infinite at t = 1")

    def alpha(self, t: Number) -> Tensor:
        return (double(t) * math.pi / 2).cos()

    def sigma(self, t: Number) -> Tensor:
        return (double(t) * math.pi / 2).sin()

    def time(self, level: Number) -> Tensor:
        return double(level).atan() * 2 / math.pi


@dataclass(frozen=True, init=False)
class Path(Process):
    """A process from two functions of the model's own time; the inverse, level to time, is found by itself.

    Args:
        alpha, sigma: float64 tensor of times -> signal and noise scale, by torch functions (their derivatives are
            taken), with any further axes of length 1; a plain number where one of them is constant.
        t_max, t_min: ends of sampling in the model's own time. Which of them is noise follows from the levels, so
            models with the data at t = 1 are written as they are.

    Raises:
        Error: a function fails on a tensor, is not finite, or has the wrong sign between the ends; a level that is 0
            or turns between them.
    """

    t_max: float
    t_min: float
    _alpha: Callable[[Tensor], Any] = field(repr=False)
    _sigma: Callable[[Tensor], Any] = field(repr=False)
    _table: tuple[Tensor, Tensor, int] = field(repr=False, compare=False)
    _copies: dict[torch.device, tuple[Tensor, Tensor]] = field(repr=False, compare=False)

    def __init__(
        self, alpha: Callable[[Tensor], Any], sigma: Callable[[Tensor], Any], *, t_max: float, t_min: float
    ) -> None:
        try:
            rising = -math.inf < t_min < t_max < math.inf
        except TypeError:  # text
            rising = False
        if not rising:
            raise Error(f"needs t_min < t_max, got t_min = {t_min!r} and t_max = {t_max!r}; levels say which is noise")
        ends = {"t_max": float(t_max), "t_min": float(t_min), "_alpha": alpha, "_sigma": sigma, "_copies": {}}
        for key, value in ends.items():
            object.__setattr__(self, key, value)
        object.__setattr__(self, "_table", self._tabulated())

    @property
    def time_range(self) -> tuple[float, float]:
        return (self.t_max, self.t_min) if self._table[2] > 0 else (self.t_min, self.t_max)

    def alpha(self, t: Number) -> Tensor:
        return _scale("alpha", self._alpha, double(t))

    def sigma(self, t: Number) -> Tensor:
        return _scale("sigma", self._sigma, double(t))

    def time(self, level: Number) -> Tensor:
        """Exact to rounding between the ends; beyond them linear in log level, from the outermost nodes."""
        log_level = double(level).log()
        at = log_level.detach()
        t = self._inverse(at)
        if not log_level.requires_grad:
            return t
        return t + (log_level - at) / slope(self._log_level, t)  # the value of t, with its derivative

    def _log_level(self, t: Tensor) -> Tensor:
        return self.level(t).log()

    def _inverse(self, log_level: Tensor) -> Tensor:
        times, levels = self._on(log_level.device)
        i = torch.searchsorted(levels, log_level.contiguous()).clamp(1, NODES - 1)
        inside = (log_level >= levels[0]) & (log_level <= levels[-1])
        beyond = interpolate(log_level, levels, times)
        low, high = times.take(i - 1), times.take(i)
        found = _root(lambda t: self._log_level(t) - log_level.clamp(levels[0], levels[-1]), low, high)
        return torch.where(inside, found, beyond)

    def _tabulated(self) -> tuple[Tensor, Tensor, int]:
        """Times and log levels of the nodes, from data to noise, and 1 where time rises that way, -1 where it falls."""
        t = torch.linspace(self.t_min, self.t_max, NODES, dtype=torch.float64)
        with torch.no_grad():
            alpha, sigma = self.alpha(t), self.sigma(t)
        _check_scales(t, alpha, sigma)
        level = (sigma / alpha).log()
        step = level.diff()
        sign = 1 if level[-1] > level[0] else -1
        if not (sign * step > 0).all():
            i = int((sign * step <= 0).nonzero()[0])
            where = f"{t[i].item():.4g}"
            raise Error(f"the level sigma/alpha of a path must rise or fall all the way; it turns near t = {where}")
        return (t, level, 1) if sign > 0 else (t.flip(0), level.flip(0), -1)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """The table on a device, copied there once."""
        if device not in self._copies:
            times, levels, _ = self._table
            self._copies[device] = (times.to(device), levels.to(device))
        return self._copies[device]


def _scale(name: str, f: Callable[[Tensor], Any], t: Tensor) -> Tensor:
    """What a user's function says of times, in float64 and their shape."""
    try:
        value = torch.as_tensor(f(t), dtype=torch.float64, device=t.device)
        return value.reshape(t.shape) if value.numel() == t.numel() else value.expand(t.shape)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        advice = "must take a tensor of times, as torch.cos does and math.cos not"
        raise Error(f"{name} of a path {advice}: {reason}") from error


def _check_scales(t: Tensor, alpha: Tensor, sigma: Tensor) -> None:
    for name, value in (("alpha", alpha), ("sigma", sigma)):
        bad = ~(value.isfinite() & (value > 0))
        if bad.any():
            i = int(bad.nonzero()[0])
            found = f"{value[i].item():g} at t = {t[i].item():.4g}"
            raise Error(f"{name} of a path must be above 0, but is {found}; move t_min or t_max inwards")


def _root(f: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Where ``f``, rising from ``low`` to ``high`` through 0, is 0 (Ridders 1979), every entry by itself.

    ``low`` may be the larger number. A GPU is not asked whether the rounds suffice, which would make the host wait.
    """
    f_low, f_high = f(low), f(high)
    for _ in range(ROUNDS):
        if low.device.type == "cpu" and (torch.minimum(f_low.abs(), f_high.abs()) <= SAME).all():
            break
        middle = (low + high) / 2
        f_middle = f(middle)
        spread = (f_middle.square() - f_low * f_high).clamp(min=1e-300).sqrt()
        guess = middle - (middle - low) * f_middle / spread
        f_guess = f(guess)
        near = f_guess < f_middle  # then low, guess, middle, high
        a, f_a = torch.where(near, guess, middle), torch.where(near, f_guess, f_middle)
        b, f_b = torch.where(near, middle, guess), torch.where(near, f_middle, f_guess)
        first, last = f_a > 0, f_b <= 0
        low, f_low, high, f_high = (
            torch.where(last, b, torch.where(first, low, a)),
            torch.where(last, f_b, torch.where(first, f_low, f_a)),
            torch.where(first, a, torch.where(last, high, b)),
            torch.where(first, f_a, torch.where(last, f_high, f_b)),
        )
    return torch.where(f_low.abs() < f_high.abs(), low, high)
