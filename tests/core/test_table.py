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


@pytest.mark.parametrize(("sigma", "start", "message"), [
    ([20.0, 1.0], [], r"start of a table must be numbers in a row, one for each node, got shape \[0\]"),
    ([20.0, 1.0], 3.0, r"start of a table must be numbers in a row, one for each node, got shape \[\]"),
    ([], [1.1], r"sigma of a table must be numbers in a row"),
    ([20.0, 1.0], [0.0, 1], r"start\[0\] = 0 of a table must be positive: it is what x_T counts in the first node"),
    ([20.0, 1.0], [-1.0, 1], r"start\[0\] = -1 of a table must be positive"),
    ([20.0, 1.0], [float("nan"), 1], r"start\[0\] = nan of a table must be positive"),
])  # fmt: skip
def test_a_table_that_starts_nowhere_is_refused(sigma: list[float], start: object, message: str) -> None:
    with pytest.raises(s4s.Error, match=message) as caught:
        s4s.from_table(sigma, [20.0], start, [[0.0], [1.0]])
    assert "\n" not in str(caught.value)
