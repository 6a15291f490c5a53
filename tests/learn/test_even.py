"""Even levels: where a step that holds the network's output fixed misses as much as any other."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import s4s
from s4s.even import SAMPLES, STEPS, Even
from s4s.learn.distances import distance
from s4s.learn.frozen import Frozen
from s4s.learn.objective import Objective, Tried
from s4s.learn.starts import even_levels

PROCESS = s4s.EDM(0.1, 10.0)


@pytest.mark.parametrize("slope", [-2.0, 0.5, 2.0])
def test_levels_lie_as_densely_as_the_root_of_the_speed(slope: float) -> None:
    """With ``|dD/dlam| / |x| = exp(slope lam)`` the levels are even in ``exp(slope lam / 2)``."""
    sigma = s4s.grid("logsnr", PROCESS, 2000)
    found = Even.of(sigma, (-slope * sigma[:-2].log()).exp()).levels(5)
    assert found[0] == 10.0 and found[-1] == 0.1
    steps = (-slope / 2 * found.log()).exp().diff()
    assert torch.allclose(steps / steps[0], torch.ones(5).double(), atol=5e-3)


@pytest.mark.parametrize("output", [0.0, math.nan])
def test_where_outputs_say_nothing_levels_are_uniform_in_log(output: float) -> None:
    found = s4s.grid("even", PROCESS, 4, denoise=lambda x, sigma: torch.full_like(x, output), shape=(2,))
    assert torch.allclose(found, s4s.grid("logsnr", PROCESS, 4))


def test_paths_are_those_of_training_noises_and_counted() -> None:
    """A network that turns at level 1: levels crowd there, and every start on them is nearer to the teacher."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        level = sigma.reshape(-1, 1) if sigma.ndim else sigma
        return torch.tanh(x / (0.1 + level**2)) * torch.exp(-(level**2))

    strong = s4s.solver("unipc", s4s.grid("logsnr", PROCESS, 40), order=3)
    teacher = s4s.teacher_set(strong, denoise, 96, (2,), seed=0, dtype=torch.float64)
    objective = Objective(Frozen(denoise), distance("l2"), teacher, 48, Tried(1.0, True))
    before = objective.evaluations
    levels = even_levels(s4s.solver("ddim", s4s.grid("edm", PROCESS, 6)), objective).levels(6)
    assert objective.evaluations - before == SAMPLES * (STEPS - 1), "the first output of a noise is known"
    uniform = s4s.grid("logsnr", PROCESS, 6)
    named = s4s.grid("even", PROCESS, 6, denoise=denoise, shape=(2,), dtype=torch.float64)
    assert torch.equal(levels, named), "the teacher's first noises are those of seed 0"
    with pytest.raises(s4s.Error, match="grid 'even': warmup = 0 must be a whole number of at least 1"):
        s4s.grid("even", PROCESS, 6, denoise=denoise, shape=(2,), warmup=0)
    assert (levels.log().abs() < 1).sum() > (uniform.log().abs() < 1).sum()
    for name in ("ipndm", "dpmpp"):
        near, far = (objective.distances(s4s.solver(name, grid, order=3), objective.held_out).mean()
                     for grid in (levels, uniform))  # fmt: skip
        assert near < far, name
