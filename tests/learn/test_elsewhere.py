"""Fits on a device: whole ones, on tensors that say they are elsewhere and refuse to meet others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from elsewhere import Elsewhere, There, there
from problems import TwoPoints
from torch import Tensor

import s4s

PROCESS = s4s.EDM(0.01, 20.0)
START = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 3))


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return TwoPoints().denoise(x, sigma.reshape(-1, 1))


@pytest.fixture(scope="module")
def teacher() -> s4s.TeacherSet:
    strong = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 20), order=3)
    return s4s.teacher_set(strong, denoise, 48, (2,), 3, dtype=torch.float64)


def test_the_device_is_noticed() -> None:
    with Elsewhere():
        x = there(torch.ones(3))
        assert x.device.type == "xpu" and isinstance(x + 1, There) and not isinstance(x.cpu(), There)
        assert isinstance(torch.zeros(2, device=x.device), There) and isinstance(torch.ones(2).to(x), There)
        with pytest.raises(RuntimeError, match="same device"):
            x + torch.ones(3)


@pytest.mark.parametrize("options", [{}, {"moments": 5.0}, {"radius": 0.02}, {"microbatch": 7}, {"method": "s4s"}])
def test_a_fit_is_the_same_there(options: dict[str, Any], teacher: s4s.TeacherSet) -> None:
    here = s4s.fit(START, denoise, teacher, **{"rounds": 2} | options)
    with Elsewhere():
        found = s4s.fit(START, denoise, replace(teacher, y=there(teacher.y)), **{"rounds": 2} | options)
    assert found.history == here.history and torch.equal(found.solver.weight, here.solver.weight)


def test_forward_differences_too(teacher: s4s.TeacherSet) -> None:
    def cut(x: Tensor, sigma: Tensor) -> Tensor:
        return denoise(x.detach(), sigma.detach())

    here = s4s.fit([START], cut, teacher, rounds=1)
    with Elsewhere():
        found = s4s.fit([START], cut, replace(teacher, y=there(teacher.y)), rounds=1)
    assert found.history == here.history and found.solver.provenance["derivatives"] == "forward differences"


@pytest.mark.parametrize("calls", [70, 150])
def test_a_killed_fit_goes_on_there(calls: int, teacher: s4s.TeacherSet, tmp_path: Path) -> None:
    left = [calls]

    def killing(x: Tensor, sigma: Tensor) -> Tensor:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return denoise(x, sigma)

    killing.any_levels = True  # type: ignore[attr-defined]
    options: dict[str, Any] = {"rounds": 2, "radius": 0.02, "resume": tmp_path / "fit"}
    with Elsewhere():
        data = replace(teacher, y=there(teacher.y))
        with pytest.raises(KeyboardInterrupt):
            s4s.fit(START, killing, data, **options)
        assert options["resume"].exists()
        found = s4s.fit(START, killing, data, **options)
    assert found.history == s4s.fit(START, killing, teacher, rounds=2, radius=0.02).history
