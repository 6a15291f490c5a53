"""Fits where the caller has switched gradients off, and what torch prints at the first one."""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractContextManager

import pytest
import torch
from problems import TwoPoints
from torch import Tensor

import s4s

PROCESS = s4s.EDM(0.05, 6.0)


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return TwoPoints().denoise(x, sigma.reshape(-1, 1))


def fitted(radius: float, net: object = denoise) -> s4s.FitResult:
    strong = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, 20))
    teacher = s4s.teacher_set(strong, denoise, 48, (2,), 3, dtype=torch.float64)
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, 4), order=3)
    return s4s.fit(start, net, teacher, "s4s", rounds=2, radius=radius)  # type: ignore[arg-type]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("radius", [0.0, 0.05])
def test_a_fit_is_the_same_where_gradients_are_off(mode: type[AbstractContextManager[None]], radius: float) -> None:
    expected = fitted(radius)
    with mode():
        found = fitted(radius)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert torch.equal(found.solver.weight, expected.solver.weight) and found.val_loss == expected.val_loss


def test_weights_made_under_inference_mode() -> None:
    """Enough for differences of outputs; a gradient through them is refused in words."""
    with torch.inference_mode():
        net = torch.nn.Linear(2, 2, dtype=torch.float64)

    def with_net(x: Tensor, sigma: Tensor) -> Tensor:
        return denoise(x, sigma) + 1e-3 * net(x).tanh()

    assert fitted(0.0, with_net).val_loss < fitted(0.0, with_net).start_loss
    with pytest.raises(
        s4s.Error, match=r"radius > 0 needs gradients by the noises, and .* made under torch\.inference_mode: load"
    ):
        fitted(0.05, with_net)


def test_the_first_fit_of_a_process_prints_nothing() -> None:
    code = (
        "import torch, s4s, warnings\n"
        "from s4s.errors import Notice\n"
        "warnings.simplefilter('ignore', Notice)\n"
        "denoise = lambda x, s: x / (1 + s.reshape(-1, 1) ** 2)\n"
        "grid = s4s.grid('edm', s4s.EDM(), 3)\n"
        "teacher = s4s.teacher_set(s4s.solver('ddim', s4s.grid('edm', s4s.EDM(), 9)), denoise, 8, (2,))\n"
        "s4s.fit(s4s.solver('ddim', grid), denoise, teacher, 's4s', rounds=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
