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
from s4s.learn import objective
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


@pytest.mark.parametrize("denoise", [lambda x, sigma: (x, sigma), lambda x, sigma: None])
def test_what_gives_no_tensor_is_refused(denoise: Denoise) -> None:
    with pytest.raises(s4s.Error, match=r"denoise returns a (tuple|NoneType), not a tensor in the shape of x"):
        s4s.fit(START, denoise, teacher(), "s4s")


@pytest.mark.parametrize("denoise", [both, lambda condition: condition])
@pytest.mark.parametrize("method", ["s4s", "s4s-cfg"])
def test_conditions_need_a_function_of_them(denoise: Denoise, method: str) -> None:
    with pytest.raises(s4s.Error, match="has conditions, so denoise is a function of their rows that gives a denoiser"):
        s4s.fit(START, denoise, teacher(condition=torch.zeros(64, 1)), method)


@pytest.mark.parametrize("denoise", [one_level, numbers_only])
def test_levels_that_move_have_a_gradient_of_each_row(denoise: Denoise) -> None:
    """So that S4S-Alt is fitted by reverse mode, also where a level becomes a number."""
    with pytest.warns(Notice, match="takes one level a call"):
        found = s4s.fit(START, denoise, teacher(), "s4s-alt", rounds=1)
    assert found.solver.provenance["derivatives"] == "reverse mode" and found.val_loss < 0.5 * found.start_loss
    x, sigma = teacher().x_T[:3], torch.tensor([2.0, 1.0, 2.0], dtype=torch.float64, requires_grad=True)
    x.requires_grad_(True)
    weight = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slopes, expected = (torch.autograd.grad((made(x, sigma) * weight).sum(), [x, sigma])
                        for made in (level_by_level(lambda _: denoise), both))  # fmt: skip
    for slope, each in zip(slopes, expected, strict=True):
        torch.testing.assert_close(slope, each, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("method", ["s4s", "s4s-alt"])
def test_rows_of_conditions_too(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every row its own, in a batch and in the copies of one that differences ask for."""
    data = teacher(2, torch.linspace(0.8, 1.2, 64, dtype=torch.float64)[:, None])

    def under(denoise: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor], Callable[[Tensor, Tensor], Tensor]]:
        return lambda c: lambda x, sigma: denoise(x, sigma) * c.repeat(len(x) // len(c), 1)

    monkeypatch.setattr(objective, "differentiable", lambda *_: ("not in this test", 0))
    with pytest.warns(Notice, match="one level a call"):
        found = s4s.fit(START, under(numbers_only), data, method, rounds=1)
    assert found.solver.provenance["derivatives"] == "forward differences"
    assert found.val_loss == pytest.approx(s4s.fit(START, under(both), data, method, rounds=1).val_loss, rel=0.1)


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
