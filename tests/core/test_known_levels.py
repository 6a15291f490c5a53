"""Levels outside those of a process are refused, before a network is told a time that it does not know."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import s4s
from s4s.models.scheduler import betas

STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TABLE = (1 - betas(STABLE)).cumprod(0)
PROCESSES = {"table": s4s.VPDiscrete(TABLE), "linear": s4s.VPLinear(), "flow": s4s.Flow(), "edm": s4s.EDM(0.01, 20.0)}


def scaled(process: s4s.Process, first: float, last: float) -> Tensor:
    """Levels from ``first`` times the highest of a process to ``last`` times its lowest."""
    low, high = process.levels
    share = (torch.logspace(1, 0, 6, dtype=torch.float64) - 1) / 9
    return last * low + share * (first * high - last * low)


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
@pytest.mark.parametrize(("first", "last", "fine"), [(1, 1, True), (0.5, 2, True), (1.005, 1, True), (1.1, 1, False)])
def test_levels_of_your_own(process: s4s.Process, first: float, last: float, fine: bool) -> None:
    levels, told = scaled(process, first, last), []
    denoise = process.denoiser(lambda x, t: told.append(t[0].item()) or x, prediction="eps")
    calls: list[Any] = [
        lambda: s4s.grid(levels, process, 5),
        lambda: s4s.sample(s4s.solver("ddim", levels), denoise, levels[0] * torch.ones(1, 2)),
    ]
    for call in calls:
        if fine:
            call()
            continue
        with pytest.raises(s4s.Error, match=r"noise levels .* go beyond those of the process") as caught:
            call()
        assert "\n" not in str(caught.value) and not told, "no network was called"


@pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES)
def test_levels_below_the_lowest(process: s4s.Process) -> None:
    """Only where the network is called: the last level may be anything down to 0."""
    levels = scaled(process, 1, 1)
    for end in (0.0, process.levels[0] / 3):
        own = torch.cat([levels[:-1], levels.new_tensor([end])])
        s4s.sample(s4s.solver("ddim", s4s.grid(own, process, 5)), process.denoiser(lambda x, t: x), torch.ones(1, 2))
    low = torch.cat([levels[:-1], levels.new_tensor([process.levels[0] / 3, 0.0])])
    with pytest.raises(s4s.Error, match="go beyond"):
        s4s.grid(low, process, 6)
    with pytest.raises(s4s.Error, match="go beyond"):
        s4s.sample(s4s.solver("ddim", low), process.denoiser(lambda x, t: x), torch.ones(1, 2))
    times = torch.cat([levels[:-2], levels.new_tensor([process.levels[0] / 3])])
    with pytest.raises(s4s.Error, match="go beyond"):  # decoupled times count, not the grid
        s4s.sample(s4s.solver("ddim", levels, sigma_eval=times), process.denoiser(lambda x, t: x), torch.ones(1, 2))


def test_a_wider_range_admits_them() -> None:
    levels = s4s.grid("edm", s4s.EDM(0.002, 200.0), 5)
    with pytest.raises(s4s.Error, match=r"200 to .* beyond those of the process, 80 to 0.002"):
        s4s.grid(levels, s4s.EDM(), 5)
    assert torch.equal(s4s.grid(levels, s4s.EDM(sigma_max=200.0), 5), levels)


@pytest.mark.parametrize("t_min", [1e-6, 0.0005, 0.00099])
def test_a_first_time_that_the_table_does_not_have_is_refused(t_min: float) -> None:
    with pytest.raises(s4s.Error, match=f"t_min = {t_min} is below the first of the 1000 times, 0.001"):
        s4s.VPDiscrete(TABLE, t_min=t_min)
    assert s4s.VPDiscrete(TABLE, t_min=0.001).t_min == s4s.VPDiscrete(TABLE).t_min == 0.001
