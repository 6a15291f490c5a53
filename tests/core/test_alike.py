"""Solvers that begin alike share evaluations: to the same bits, and no more of them than are shared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from problems import TwoPoints
from torch import Tensor

import s4s
from s4s.alike import in_turn
from s4s.learn.teacher import generate, generate_each
from s4s.noise import Start

PROCESS = s4s.EDM(0.002, 80.0)
NAMES: list[tuple[str, dict[str, Any]]] = [
    ("ddim", {}), ("dpmpp", {"order": 3}), ("unipc", {"order": 3}), ("ipndm", {"order": 3}), ("heun", {}),
]  # fmt: skip
NOISES = {"indices": range(3, 20), "shape": (2,), "seed": 4, "batch": 8}


class Network:
    """Counts the samples it is called with."""

    def __init__(self) -> None:
        self.rows = 0

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        self.rows += len(x)
        return TwoPoints().denoise(x, sigma)

    def columns(self, x: Tensor, sigma: Tensor, both: bool) -> list[Tensor]:
        made = self(x, sigma)
        return [made, made / 2] if both else [made]


def textbook(nfe: int, *schedules: str) -> list[s4s.Solver]:
    return [s4s.solver(name, s4s.grid(schedule, PROCESS, nfe // (1 + (name == "heun"))), **options)
            for name, options in NAMES for schedule in schedules]  # fmt: skip


def each(solvers: list[s4s.Solver], network: Network, **options: Any) -> list[Tensor]:
    batches = generate_each(solvers, lambda rows: network, **{**NOISES, **options})
    return [torch.cat(parts) for parts in zip(*batches, strict=True)]


def learned(nfe: int) -> s4s.Solver:
    start = s4s.solver("ipndm", s4s.grid("edm", PROCESS, nfe), order=3)
    return start.replace(weight=start.weight * 1.01)


def guided(nfe: int) -> s4s.Solver:
    start = s4s.solver("ddim", s4s.grid("edm", PROCESS, nfe))
    return start.replace(null=start.weight / 4)


def elsewhere(nfe: int) -> s4s.Solver:
    start = s4s.solver("ddim", s4s.grid("edm", PROCESS, nfe))
    return start.replace(noise=Start(0.5, 80.0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_solvers_beside_others_make_the_same_bits(dtype: torch.dtype) -> None:
    solvers = [*textbook(6, "edm", "logsnr"), learned(6), guided(6), elsewhere(6), *textbook(4, "edm"), guided(4)]
    for solver, found in zip(solvers, each(solvers, Network(), dtype=dtype), strict=True):
        alone = generate(solver, lambda rows: Network(), **NOISES, dtype=dtype)
        assert torch.equal(found, alone) and found.shape == (17, 2) and found.dtype == dtype


@pytest.mark.parametrize(("solvers", "evaluations"), [
    (textbook(6, "edm")[:4], 1 + 1 + 4 * 4),  # after the first a step of Euler's, the same by all
    (textbook(6, "edm", "quadratic"), 1 + 2 * (1 + 4 * 4 + 5)),  # Heun's grid is another
    ([*textbook(6, "edm")[:1], learned(6)], 1 + 2 * 5),
    ([*textbook(6, "edm")[:1], *textbook(4, "edm")[:1]], 1 + 5 + 3),
    ([*textbook(6, "edm")[:1], *textbook(6, "edm")[:1]], 6),
    ([*textbook(6, "edm")[:1], elsewhere(6)], 12),
    ([*textbook(6, "edm")[:1], s4s.solver("ddim", s4s.grid("edm", s4s.EDM(0.002, 70.0), 6))], 12),
    ([guided(6), guided(6)], 12),
])  # fmt: skip
def test_what_is_shared_is_asked_for_once(solvers: list[s4s.Solver], evaluations: int) -> None:
    network = Network()
    each(solvers, network)
    assert network.rows == 3 * 8 * evaluations


def test_a_solver_that_differs_beyond_the_digits_of_the_states_shares_as_well() -> None:
    start = textbook(6, "edm")[1]
    near = start.replace(weight=start.weight * (1 + 1e-12))
    level = start.replace(sigma_eval=start.sigma_eval * (1 - 1e-12))
    assert [known for _, known in in_turn([start, near], torch.float32)] == [0, 6]
    assert [known for _, known in in_turn([start, near], torch.float64)] == [0, 1]
    assert [known for _, known in in_turn([start, level], torch.float32)] == [0, 0], "the network is told float64"


def test_a_shared_output_that_is_not_finite_names_its_step() -> None:
    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        return TwoPoints().denoise(x, sigma) / (sigma > 30)

    with pytest.raises(s4s.Error, match=r"NaN or infinity at step 2 of 6"):
        list(generate_each(textbook(6, "edm")[:4], lambda rows: broken, **NOISES))
