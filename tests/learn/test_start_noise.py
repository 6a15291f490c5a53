"""Learning from a starting noise with a mean and a scale."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from problems import TwoPoints
from torch import Tensor

import s4s

PROCESS = s4s.EDM(0.05, 6.0)
STRONG = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 40))
START = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4), order=3)
MEAN, SCALE = [2.0, -3.0], [6.5, 7.0]


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return TwoPoints().denoise(x, sigma.reshape(-1, 1))


TEACHER = s4s.teacher_set(STRONG, denoise, 96, (2,), 3, mean=MEAN, scale=SCALE, dtype=torch.float64)


def test_teacher_starts_where_it_is_told() -> None:
    normal = s4s.noise(3, range(96), (2,))
    expected = torch.tensor(MEAN, dtype=torch.float64) + torch.tensor(SCALE, dtype=torch.float64) * normal
    torch.testing.assert_close(TEACHER.x_T, expected)
    torch.testing.assert_close(TEACHER.y, s4s.sample(STRONG, denoise, expected))
    assert torch.equal(TEACHER.part(10, 20).x_T, TEACHER.x_T[10:20])


def test_each_has_its_default() -> None:
    small = {"n": 4, "shape": (2,), "dtype": torch.float64}
    normal = s4s.noise(0, range(4), (2,))
    moved = s4s.teacher_set(STRONG, denoise, mean=1.0, **small)
    torch.testing.assert_close(moved.x_T, 1 + 6.0 * normal)
    wide = s4s.teacher_set(STRONG, denoise, scale=6.5, **small)
    torch.testing.assert_close(wide.x_T, 6.5 * normal)
    kept = s4s.teacher_set(STRONG.replace(noise=s4s.Start(1.0, 6.5)), denoise, **small)
    torch.testing.assert_close(kept.x_T, 1 + 6.5 * normal)
    assert s4s.teacher_set(STRONG, denoise, **small).noise is None


@pytest.mark.parametrize("method", ["s4s-alt", "ld3"])
def test_a_fit_learns_from_there_and_says_so(method: str, tmp_path: Path) -> None:
    result = s4s.fit(START, denoise, TEACHER, method, rounds=3, resume=tmp_path / "fit")
    assert result.val_loss < 0.5 * result.start_loss
    result.solver.save(tmp_path / "solver.json")
    loaded = s4s.load_solver(tmp_path / "solver.json")
    assert loaded.noise is not None and loaded.noise.same(TEACHER.noise)
    held_out = TEACHER.part(72, 96)
    x = s4s.sample(loaded, denoise, loaded.x_T(s4s.noise(3, range(72, 96), (2,))))
    torch.testing.assert_close((x - held_out.y).square().mean().item(), result.val_loss, rtol=0.05, atol=0)


def test_a_start_of_another_noise_is_refused() -> None:
    with pytest.raises(s4s.Error, match="starts from another mean or scale of noise than the teacher set"):
        s4s.fit(START.replace(noise=s4s.Start(0.0, 6.0)), denoise, TEACHER)
    again = START.replace(noise=s4s.Start(MEAN, SCALE))
    assert s4s.fit(again, denoise, TEACHER, "s4s", rounds=1).solver.noise is TEACHER.noise


def test_levels_of_a_host_are_learned_from_and_finished() -> None:
    host = [6.0, 2.0, 1.0, 0.5, 0.0]
    with pytest.raises(s4s.Error, match="ends at level 0, learned solvers end above it"):
        s4s.fit(s4s.solver("dpmpp", s4s.grid(host, PROCESS, 4)), denoise, TEACHER)
    begin = s4s.solver("dpmpp", s4s.grid(host, PROCESS, 4, end_at_zero=False))
    result = s4s.fit(begin, denoise, TEACHER, "s4s", rounds=2)
    done = result.solver.finish()
    x = s4s.sample(done, denoise, TEACHER.x_T)
    assert done.sigma[-1] == 0 and (x.abs() - 1).abs().median() < 0.05
