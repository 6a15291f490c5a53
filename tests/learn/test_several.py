"""Solvers of several numbers of evaluations in one call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import TwoPoints
from torch import Tensor

import s4s
from s4s.learn.several import stretch

PROCESS = s4s.EDM(0.01, 20.0)
STRONG = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 30), order=3)


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return TwoPoints().denoise(x, sigma.reshape(-1, 1))


TEACHER = s4s.teacher_set(STRONG, denoise, 96, (2,), 3, dtype=torch.float64)


def start(nfe: int) -> s4s.Solver:
    return s4s.solver("ipndm", s4s.grid("edm", PROCESS, nfe), order=3)


def test_each_start_races_the_same_solver_on_the_grid_of_the_one_before() -> None:
    found = s4s.fit_nfes(start, [6, 4, 5], denoise, TEACHER, "ld3", rounds=3, seed=1)
    assert isinstance(found, s4s.Bundle) and list(found) == list(found.results) == [4, 5, 6]
    assert found.results[4].history == s4s.fit(start(4), denoise, TEACHER, "ld3", rounds=3, seed=1).history
    for nfe, before in ((5, 4), (6, 5)):
        stretched = s4s.solver("ipndm", stretch(found[before].sigma, nfe), order=3)
        both = s4s.fit([start(nfe), stretched], denoise, TEACHER, "ld3", rounds=3, seed=1)
        result = found.results[nfe]
        assert result.history == both.history and result.val_loss == both.val_loss
        assert result.val_loss <= result.start_loss and found[nfe] is result.solver


def test_methods_that_keep_the_grid_keep_it() -> None:
    found = s4s.fit_nfes(start, [4, 5], denoise, TEACHER, "s4s", rounds=1)
    for nfe, solver in found.items():
        assert torch.allclose(solver.sigma, start(nfe).sigma)


def test_stretched_grids() -> None:
    sigma = s4s.grid("edm", PROCESS, 6)
    assert torch.allclose(stretch(sigma, 6), sigma) and torch.allclose(stretch(sigma, 12)[::2], sigma)
    short = stretch(sigma, 4)
    assert short[0] == sigma[0] and short[-1] == sigma[-1] and (short.diff() < 0).all()
    logsnr = s4s.grid("logsnr", PROCESS, 5)
    assert torch.allclose(stretch(logsnr, 9), s4s.grid("logsnr", PROCESS, 9))


@pytest.mark.parametrize(("arguments", "options", "message"), [
    ((start, []), {}, "nfes holds no number"),
    ((start, [4.0]), {}, "nfes = 4.0 must be a whole number"),
    ((start(4), [4]), {}, "start must be a function"),
    ((lambda nfe: start(4), [4, 5]), {"denoise": None}, r"start\(5\) has 4 evaluations"),  # before the first fit
    ((lambda nfe: start(nfe + 1), 4), {}, r"start\(4\) has 5 evaluations"),
    ((start, [4]), {"resume": "x"}, "resume is the file of a single fit"),
])  # fmt: skip
def test_errors(arguments: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(s4s.Error, match=message):
        s4s.fit_nfes(*arguments, **{"denoise": denoise, "teacher": TEACHER, "rounds": 1} | options)
