"""Named grids: their ends, what they are uniform in, and their errors. Official grids are in ``test_golden.py``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import s4s
from s4s.process import Process
from s4s.schedules import SCHEDULES

PROCESSES = [s4s.EDM(), s4s.EDM(0.01, 20.0), s4s.VPLinear(), s4s.VPLinear(t_min=1e-4), s4s.Flow()]
PROCESSES += [s4s.VPDiscrete(torch.linspace(0.9999, 0.01, 100, dtype=torch.float64))]


@settings(max_examples=20, deadline=None)
@given(schedule=st.sampled_from(sorted(SCHEDULES)), process=st.sampled_from(PROCESSES), nfe=st.integers(1, 40))
def test_ends_and_fall(schedule: str, process: Process, nfe: int) -> None:
    sigma = s4s.grid(schedule, process, nfe)
    assert sigma.dtype == torch.float64 and sigma.shape == (nfe + 1,)
    assert (sigma.diff() < 0).all()
    torch.testing.assert_close(sigma[0].item(), process.sigma_max, rtol=1e-12, atol=0)
    torch.testing.assert_close(sigma[-1].item(), process.sigma_min, rtol=1e-12, atol=0)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
@pytest.mark.parametrize(("schedule", "options", "variable"), [
    ("logsnr", {}, lambda sigma, process: sigma.log()),
    ("edm", {}, lambda sigma, process: sigma ** (1 / 7)),
    ("edm", {"rho": 3.0}, lambda sigma, process: sigma ** (1 / 3)),
    ("uniform", {}, lambda sigma, process: process.time(sigma)),
    ("quadratic", {}, lambda sigma, process: process.time(sigma).sqrt()),
])  # fmt: skip
def test_uniform_in(
    schedule: str, options: dict[str, Any], variable: Callable[[Tensor, Process], Tensor], process: Process
) -> None:
    steps = variable(s4s.grid(schedule, process, 9, **options), process).diff()
    torch.testing.assert_close(steps, steps.mean().expand(9), rtol=1e-8, atol=1e-12)


def test_end_at_zero() -> None:
    """As the EDM sampler: one interval less, then 0."""
    sigma = s4s.grid("edm", s4s.EDM(), 6, end_at_zero=True)
    assert torch.equal(sigma[:-1], s4s.grid("edm", s4s.EDM(), 5)) and sigma[-1] == 0
    assert s4s.grid("edm", s4s.EDM(), 1, end_at_zero=True).tolist() == [80.0, 0.0]


def test_karras_is_the_edm_grid() -> None:
    assert torch.equal(s4s.grid("karras", s4s.EDM(), 6, rho=5.0), s4s.grid("edm", s4s.EDM(), 6, rho=5.0))


def test_your_own_levels() -> None:
    own = [10.0, 3.0, 0.0]
    assert s4s.grid(own, s4s.EDM(), 2).tolist() == own
    learned = torch.tensor(own, dtype=torch.float64, requires_grad=True)
    assert s4s.grid(learned, s4s.EDM(), 2).requires_grad


def test_levels_of_a_host_that_end_at_zero() -> None:
    """As they are for textbook solvers; with sigma_min in the place of 0 for a fit."""
    host = [14.0, 4.0, 1.5, 0.7, 0.0]
    process = s4s.EDM(0.03, 14.0)
    assert s4s.grid(host, process, 4).tolist() == host
    assert s4s.grid(host, process, 4, end_at_zero=False).tolist() == [*host[:-1], 0.03]
    assert s4s.grid(host[:-1], process, 3, end_at_zero=False).tolist() == host[:-1]


def test_a_host_s_sigma_max_in_float32_is_sigma_max() -> None:
    process = s4s.VPDiscrete((1 - torch.linspace(0.00085, 0.012, 1000, dtype=torch.float64)).cumprod(0))
    rounded = torch.tensor([process.sigma_max, 1.0, 0.1]) * (1 + 2e-7)
    found = s4s.grid(rounded, process, 2)
    assert found[0] == process.sigma_max != rounded[0] and torch.equal(found[1:], rounded[1:].double())
    assert s4s.grid([process.sigma_max * 1.001, 1.0], process, 1)[0] == process.sigma_max * 1.001
    with pytest.raises(s4s.Error, match="leave the 0 out, ask for nfe 1"):
        s4s.grid([process.sigma_max, process.sigma_min * 1.0001, 0.0], process, 2, end_at_zero=False)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: s4s.grid([3.0, 0.002, 0.0], s4s.EDM(), 2, end_at_zero=False), "leave the 0 out, ask for nfe 1"),
    (lambda: s4s.grid([3.0, 2.0], s4s.EDM(), 1, rho=7), "levels of your own have no option rho, only end_at_zero"),
    (lambda: s4s.grid("cosine", s4s.EDM(), 5), "unknown grid 'cosine'; choose one of: .*edm, .*logsnr"),
    (lambda: s4s.grid("edm", s4s.EDM(), 0), "nfe = 0 must be a whole number of at least 1"),
    (lambda: s4s.grid("edm", s4s.EDM(), 2.5), "nfe = 2.5 must be a whole number"),
    (lambda: s4s.grid("edm", s4s.EDM(), 5, rho=0.0), "rho = 0.0 must be positive"),
    (lambda: s4s.grid("logsnr", s4s.EDM(), 5, rho=7), "grid 'logsnr': .*rho"),
    (lambda: s4s.grid([3.0, 2.0], s4s.EDM(), 5), r"a grid for nfe 5 has 6 levels, got shape \[2\]"),
    (lambda: s4s.grid([3.0, 3.0], s4s.EDM(), 1), r"must fall: sigma\[0\] = 3 is followed by sigma\[1\] = 3"),
    (lambda: s4s.grid([3.0, -1.0], s4s.EDM(), 1), "must be positive; only the last may be 0"),
    (lambda: s4s.grid([3.0, float("nan")], s4s.EDM(), 1), "one is NaN or infinite"),
    (lambda: s4s.grid([float("inf"), 3.0], s4s.EDM(), 1), "one is NaN or infinite"),
    (lambda: s4s.grid([[3.0], [1.0, 2.0]], s4s.EDM(), 1), "a grid of your own is not a rectangular array of numbers"),
])  # fmt: skip
def test_errors(call: Callable[[], Tensor], message: str) -> None:
    with pytest.raises(s4s.Error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
