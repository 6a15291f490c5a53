"""A table whose first node is a multiple of the noise, as GS learns it."""

from __future__ import annotations

import pytest
import torch
from problems import TwoPoints
from torch import Tensor

import s4s


def denoise(x: Tensor, sigma: Tensor) -> Tensor:
    return TwoPoints().denoise(x, sigma)


def test_nodes_of_a_table_are_those_of_its_solver() -> None:
    sigma, told = [20.0, 5.0, 0.5, 0.01], [7.0, 5.5, 0.4]
    start, weight = [0.34, 0.2, 0.02, 1e-3], [[0.0, 0, 0], [0.7, 0, 0], [0.2, 0.7, 0], [0.1, -0.3, 1.2]]
    made = s4s.from_table(sigma, told, start, weight, name="gs")
    normal = s4s.noise(3, range(8), (2,))
    x_T, outputs = 20.0 * normal, list[Tensor]()
    for n, level in enumerate([*told, None]):
        x = start[n] * x_T + sum(w * D for w, D in zip(weight[n], outputs, strict=False))
        if level is not None:
            outputs.append(denoise(x, torch.tensor(level)))
    torch.testing.assert_close(s4s.sample(made, denoise, made.x_T(normal)), x)
    assert made.start[0] == 1 and made.sigma.tolist() == sigma and made.name == "gs"
    assert s4s.from_table(sigma, told, [1.0, *start[1:]], weight).noise is None


@pytest.mark.parametrize("start", [[], [0.0, 1], [-1.0, 1], 3.0])
def test_a_table_that_starts_nowhere_is_refused(start: object) -> None:
    with pytest.raises(s4s.Error, match=r"start\[0\] of a table must be positive"):
        s4s.from_table([20.0, 1.0], [20.0], start, [[0.0], [1.0]])
