"""Theorem D.1 on Gaussian data: identity, bounds, where they are met, and what the page says of it."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from theorem import MEAN, NFES, PAGE, PROCESS, SPREAD, STUDENTS, affine, beyond, denoise, moved, of_solver, page, terms

import s4s


def test_solvers_of_gaussian_data_are_affine_and_the_teacher_is_right() -> None:
    strong = s4s.solver("unipc", s4s.grid("logsnr", PROCESS, 100))
    slope, offset = affine(strong)
    x_T = s4s.noise(0, range(5), (6,)) * PROCESS.sigma_max
    assert torch.allclose(s4s.sample(strong, denoise, x_T), slope * x_T + offset, rtol=1e-9, atol=1e-9)
    low, high = PROCESS.sigma_min, PROCESS.sigma_max
    assert torch.allclose(slope, ((SPREAD**2 + low**2) / (SPREAD**2 + high**2)).sqrt(), rtol=1e-4)
    assert torch.allclose(offset + slope * MEAN * 0, MEAN * (1 - slope), atol=1e-3)


def test_kl_is_that_of_the_two_gaussians() -> None:
    rho, beta = torch.tensor([1.3, 0.8], dtype=torch.float64), torch.tensor([0.2, -0.1], dtype=torch.float64)
    normal = torch.distributions.Normal
    q, p = normal(beta, rho), normal(torch.zeros_like(rho), torch.ones_like(rho))  # in the student's own noise
    assert terms(rho, beta).kl == pytest.approx(torch.distributions.kl_divergence(q, p).sum().item(), abs=1e-12)


@pytest.mark.parametrize("r", [0.01, 0.1, 0.5, 1.0, 2.0])
def test_the_bounds_hold_and_growth_meets_the_sharp_one(r: float) -> None:
    for kind in ("translation", "growth", "shrinking"):
        made = moved(r, kind)
        assert made.r == pytest.approx(r) and made.kl <= made.bound + 1e-12 <= made.stated + 2e-12
    assert moved(r, "growth").kl == pytest.approx(moved(r, "growth").bound, abs=1e-12)
    assert moved(r, "translation").kl == pytest.approx(r**2 / 2)


def test_r_alone_bounds_nothing() -> None:
    made = moved(0.999 * sqrt(6), "shrinking")
    assert made.kl > made.r**2 / 2 + made.r * sqrt(7) and made.kl <= made.bound


def test_no_ball_holds_all_noises_of_unequal_slopes() -> None:
    assert 0.3 < beyond(0.5, 0.5) < 0.5 and 0 < beyond(0.5, 0.9) < 0.01


def test_the_bounds_hold_of_every_solver_and_the_page_has_its_numbers() -> None:
    for name, options in STUDENTS.values():
        found = [of_solver(name, nfe, options) for nfe in NFES]
        assert all(0 <= t.kl <= t.bound <= t.stated for t in found)
        assert found[-1].kl < found[0].kl
    assert page() == PAGE.read_text(encoding="utf-8"), "run python tests/shared/theorem.py"
