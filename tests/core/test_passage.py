"""States between the nodes of a fine solver, held to the exact solution for Gaussian data."""

from __future__ import annotations

import torch
from problems import Gaussian

import s4s
from s4s.passage import Passage

PROCESS, DATA = s4s.EDM(), Gaussian()


def exact(x_T: torch.Tensor, sigma: float) -> torch.Tensor:
    return DATA.exact(x_T, torch.tensor(80.0).double(), torch.tensor(sigma).double())


def test_between_nodes_the_states_are_those_of_the_ode() -> None:
    levels, x_T = s4s.grid("logsnr", PROCESS, nfe=40).tolist(), 80 * s4s.noise(0, range(3), (2,))
    states = [exact(x_T, sigma) for sigma in levels]
    slopes = [(x - DATA.denoise(x, torch.tensor(s))) / s for x, s in zip(states[:-1], levels, strict=False)]
    passed = Passage(levels, states, slopes)
    for sigma in (90.0, 80.0, 31.4, 2.0, 0.3, 0.0021, 0.002, 0.001):
        assert torch.allclose(passed.at(sigma), exact(x_T, min(max(sigma, 0.002), 80.0)), rtol=1e-4, atol=0), sigma
    assert torch.allclose(passed.at(levels[20]), states[20], rtol=1e-12, atol=0)


def test_a_solver_that_visits_a_level_twice_passes_it_once() -> None:
    solver, x_T = s4s.solver("heun", s4s.grid("logsnr", PROCESS, nfe=60)), 80 * s4s.noise(0, range(3), (2,))
    passed = Passage.of(solver, DATA.denoise, x_T)
    assert len(passed.sigma) == len(passed.states) == len(passed.slopes) + 1 == 61
    assert torch.allclose(passed.at(0.3), exact(x_T, 0.3), rtol=1e-2, atol=0)
    assert torch.equal(passed.at(0.002), s4s.sample(solver, DATA.denoise, x_T))
