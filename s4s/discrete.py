"""Variance preserving processes given by a table of training steps, as most published image models have them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from s4s.errors import Error, Notice
from s4s.process import Number, Process, Timed, check_range, double, interpolate
from s4s.values import amount, doubles

HUGE = 3.0  # factor in level of a table's last training step from which it is left out: within it nothing was trained
NEAR = 1e-9  # relative; how far ends of sampling may lie outside the table's own times
MOST_NOISE = 160.0  # level that no grid then starts above: where linear tables end, and where data have vanished


@dataclass(frozen=True)
class VPDiscrete(Timed, Process):
    """Variance preserving from a table of K ``alphas_cumprod``, continued to real times.

    ``log alpha`` is piecewise linear through ``t = (k+1)/K`` (DPM-Solver, Lu et al. 2022, App. D); the network sees
    the real index ``K t - 1``, 0 to K-1.

    Args:
        alphas_cumprod: [K] falling, between 0 and 1.
        t_min: last time of sampling; the first training step at the least.
        t_max: first time of sampling. By default 1, the whole table; or, where the last training step multiplies the
            level by more than 3 (cosine tables end at 20291, sigmoid ones at 1825), the last step before with a level
            up to 160, which a ``Notice`` says. 1 asks for the whole table there too.
        rounded: the network sees the training step whose log level is nearest, as ComfyUI and k-diffusion's
            ``quantize`` have it; alpha and sigma stay exact.
    """

    alphas_cumprod: Sequence[float] | Tensor = field(repr=False, compare=False)
    t_min: float = 0.0
    t_max: float = math.nan
    rounded: bool = False
    _time: Tensor = field(init=False, repr=False, compare=False)
    _table: Tensor = field(init=False, repr=False, compare=False)
    _bits: bytes = field(init=False, repr=False)  # of the table: what two processes are compared by
    _copies: dict[torch.device, tuple[Tensor, Tensor]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        acp = doubles(self.alphas_cumprod, "alphas_cumprod").detach().cpu()
        if acp.ndim != 1 or len(acp) < 2 or not ((acp > 0) & (acp < 1)).all() or not (acp.diff() < 0).all():
            raise Error("alphas_cumprod must be a falling sequence of at least two numbers between 0 and 1")
        object.__setattr__(self, "_table", acp.log() / 2)
        object.__setattr__(self, "_time", torch.arange(1, len(acp) + 1, dtype=torch.float64) / len(acp))
        object.__setattr__(self, "_bits", acp.numpy().tobytes())
        object.__setattr__(self, "_copies", {})
        if 0 < amount(self.t_min, "t_min") < (1 - NEAR) / len(acp):
            raise Error(f"t_min = {self.t_min} is below the first of the {len(acp)} times, {1 / len(acp):g}")
        object.__setattr__(self, "t_min", max(self.t_min, 1 / len(acp)))
        if self.t_max != self.t_max:  # NaN
            object.__setattr__(self, "t_max", self._first_time())
        if amount(self.t_max, "t_max") > 1 + NEAR:
            raise Error(f"t_max = {self.t_max} is above the last of the {len(acp)} times, 1")
        check_range("t_min", self.t_min, "t_max", self.t_max)

    def alpha(self, t: Number) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Number) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def time(self, level: Number) -> Tensor:
        log_alpha = -torch.log1p(double(level) ** 2) / 2
        time, table = self._on(log_alpha.device)
        return interpolate(log_alpha, table.flip(0), time.flip(0))

    def model_time(self, level: Number) -> Tensor:
        if self.rounded:
            return self._nearest(double(level))
        return len(self._time) * self.time(level) - 1

    def _nearest(self, level: Tensor) -> Tensor:
        """The training step nearest in log level."""
        time, _ = self._on(level.device)
        trained = self.level(time).log()
        high = torch.searchsorted(trained, level.detach().log().contiguous()).clamp(1, len(trained) - 1)
        nearer = (level.log() - trained.take(high - 1)) < (trained.take(high) - level.log())
        return (high - nearer.long()).double()

    def _first_time(self) -> float:
        """1, or where a huge last step and what lies above ``MOST_NOISE`` are left out."""
        level = self.level(self._time)
        if level[-1] <= HUGE * level[-2]:
            return 1.0
        kept = max(int((level[:-1] <= MOST_NOISE).sum()), 2)
        warnings.warn(
            f"the table's last step goes from level {level[-2].item():.4g} to {level[-1].item():.4g}, where there is "
            f"only noise: sampling starts at {level[kept - 1].item():.4g}; t_max=1.0 keeps the whole table",
            Notice,
            stacklevel=4,
        )
        return self._time[kept - 1].item()

    def _log_alpha(self, t: Number) -> Tensor:
        t = double(t)
        return interpolate(t, *self._on(t.device))

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Times and table on a device, copied there once: a copy a step would make the host wait for the device."""
        if device not in self._copies:
            self._copies[device] = (self._time.to(device), self._table.to(device))
        return self._copies[device]
