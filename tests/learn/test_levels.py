"""Denoisers that take one level a call are found out before a fit, and called level by level."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
from problems import TwoPoints
from torch import Tensor

import s4s
from s4s.errors import Notice
from s4s.learn.levels import level_by_level, row_levels
from s4s.solver import Denoise

PROCESS = s4s.EDM(0.01, 20.0)
START = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4), order=3)


def both(x: Tensor, sigma: Tensor) -> Tensor:
    return TwoPoints().denoise(x, sigma.reshape(-1, 1))


def one_level(x: Tensor, sigma: Tensor) -> Tensor:
    """As people write it: a level of each row would be broadcast along the last axis."""
    return TwoPoints().denoise(x, sigma)


def numbers_only(x: Tensor, sigma: Tensor) -> Tensor:
    return TwoPoints().denoise(x, torch.tensor(float(sigma)))


def teacher(width: int = 2, condition: Tensor | None = None) -> s4s.TeacherSet:
    made = s4s.teacher_set(
        s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 30)), both, 64, (width,), 3, dtype=torch.float64
    )
    return s4s.TeacherSet(made.y, made.seed, made.sigma_max, condition=condition)


@pytest.mark.parametrize("denoise", [one_level, numbers_only])
@pytest.mark.parametrize("width", [2, 3], ids=["refused by broadcasting", "broadcast the wrong way"])
def test_one_level_a_call_is_adapted_and_said(denoise: Denoise, width: int) -> None:
    data = teacher(width)
    with pytest.warns(Notice, match="takes one level a call; the fit calls it level by level"):
        found = s4s.fit(START, denoise, data, "s4s", rounds=2)
    expected = s4s.fit(START, both, data, "s4s", rounds=2)
    torch.testing.assert_close(found.solver.weight, expected.solver.weight, rtol=1e-4, atol=1e-6)
    assert found.val_loss < found.start_loss and found.evaluations == expected.evaluations


def test_levels_that_move_have_a_gradient_of_each_row() -> None:
    """So that S4S-Alt is fitted by reverse mode; where a level becomes a number, by differences."""
    with pytest.warns(Notice, match="takes one level a call"):
        found = s4s.fit(START, one_level, teacher(), "s4s-alt", rounds=1)
    expected = s4s.fit(START, both, teacher(), "s4s-alt", rounds=1)
    assert found.solver.provenance["derivatives"] == "reverse mode" and found.evaluations == expected.evaluations
    torch.testing.assert_close(found.solver.sigma, expected.solver.sigma, rtol=1e-4, atol=1e-6)
    with pytest.warns(Notice, match="derivatives are differences of network calls"):
        s4s.fit(START, numbers_only, teacher(), "s4s-alt", rounds=1)


def test_rows_of_conditions_too() -> None:
    data = teacher(2, torch.ones(64, 1, dtype=torch.float64))

    def under(denoise: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Callable[[Tensor, Tensor], Tensor]]:
        return lambda condition: lambda x, sigma: denoise(x, sigma) * condition[0]

    with pytest.warns(Notice, match="one level a call"):
        found = s4s.fit(START, under(one_level), data, "s4s", rounds=1)
    assert found.val_loss == pytest.approx(s4s.fit(START, under(both), data, "s4s", rounds=1).val_loss, rel=1e-6)


def test_denoisers_of_a_process_are_not_tried() -> None:
    calls = []

    def net(x: Tensor, t: Tensor) -> Tensor:
        calls.append(len(x))
        return x

    data = teacher()
    denoise = PROCESS.denoiser(net, "x0")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        assert row_levels(denoise, data) is denoise and not calls
        assert row_levels(both, data) is both


def test_level_by_level_keeps_the_rows_in_place() -> None:
    x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([3.0, 1.0, 3.0, 0.5, 1.0, 3.0], dtype=torch.float64)
    torch.testing.assert_close(level_by_level(lambda _: one_level)(x, sigma), both(x, sigma))


def test_a_denoiser_that_fails_is_one_line() -> None:
    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        raise RuntimeError("no such\nlayer")

    with pytest.raises(s4s.Error, match=r"denoise fails on x of shape \[1, 2\] at sigma = 20: no such layer$"):
        s4s.fit(START, broken, teacher(), "s4s", rounds=1)
