"""Measured order of every textbook solver: ``python tests/shared/convergence.py > docs/convergence.md``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from problems import Gaussian, TwoPoints
from torch import Tensor

import s4s
from s4s.solver import Denoise

FIRST, LAST = 2.0, 0.5
SCALES = torch.tensor([0.2, 0.4, 0.7, 1.0, 1.5, 2.5], dtype=torch.float64)  # s of the Gaussian, one for each sample
STARTS = torch.tensor([0.05, 0.15, 0.3, 0.5, 0.7, 1.0], dtype=torch.float64)  # x_T / FIRST of the two points


@dataclass(frozen=True)
class Row:
    """A solver with the orders that theory gives on equal and on graded steps; ``late``: reached beyond 256 steps."""

    name: str
    equal: int
    graded: int
    options: dict[str, Any] = field(default_factory=dict)
    late: str = ""

    @property
    def label(self) -> str:
        return s4s.solver(self.name, levels("equal", 4), **self.options).name


def rows() -> list[Row]:
    """Every registered solver and option, but for options that change nothing at order 1."""
    nolof: dict[str, Any] = {"lower_order_final": False}
    table = [Row("ddim", 1, 1), Row("heun", 2, 2)]
    table += [Row("ipndm", min(k, 2), min(k, 2), {"order": k}, "graded" if k == 3 else "") for k in (1, 2, 3, 4)]
    for variant in ("rhoab", "tab"):
        options = {"variant": variant}
        table += [Row("deis", min(k, 2), k, {"order": k} | options, "equal" if k == 3 else "") for k in (1, 2, 3, 4)]
    for p in ("x0", "eps"):
        options = {"prediction": p}
        table += [Row("dpmpp", min(k, 2), min(k, 2), {"order": k} | options) for k in (1, 2, 3)]
        table += [Row("dpmpp", 2, 2, {"order": k} | options | nolof) for k in (2, 3)]
        table += [Row("dpmpp", 2, 2, {"order": 2, "variant": "taylor"} | options)]
        table += [Row("dpmpp", k, k, {"order": k, "singlestep": True} | options) for k in (2, 3)]
        table += [Row("dpmpp", 2, 2, {"order": 2, "variant": "taylor", "singlestep": True} | options)]
    for p in ("x0", "eps"):
        for variant in ("bh1", "bh2"):
            options = {"variant": variant, "prediction": p}
            table += [Row("unipc", 2, k + 1, {"order": k} | options) for k in (1, 2, 3)]
            table += [Row("unipc", 3, 3, {"order": 2} | options | nolof)]
            table += [Row("unipc", 3, 4, {"order": 3} | options | nolof, "equal")]
    return table


def levels(kind: str, steps: int) -> Tensor:
    """Steps equal in log sigma, or graded: they shrink as the square of the mean step towards both ends."""
    u = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    inside = FIRST * (LAST / FIRST) ** (u if kind == "equal" else u**2 * (3 - 2 * u))
    return torch.cat([u.new_tensor([FIRST]), inside[1:-1], u.new_tensor([LAST])])


def errors(row: Row, kind: str, steps: int) -> Tensor:
    """Root mean square error [2] on the Gaussian and on the two points; a mean, so that no sign change hides it."""
    grid, n = levels(kind, steps), len(SCALES)
    gaussian, points = Gaussian(SCALES), TwoPoints()
    x_T = torch.cat([torch.full_like(SCALES, FIRST), FIRST * STARTS])

    def both(function: str, x: Tensor, *sigma: Tensor) -> Tensor:
        return torch.cat([getattr(gaussian, function)(x[:n], *sigma), getattr(points, function)(x[n:], *sigma)])

    x = run(s4s.solver(row.name, grid, **row.options), lambda x, sigma: both("denoise", x, sigma), x_T)
    error = x - both("exact", x_T, grid[0], grid[-1])
    return error.reshape(2, n).square().mean(1).sqrt()


def run(solver: s4s.Solver, denoise: Denoise, x_T: Tensor) -> Tensor:
    """``s4s.sample`` with a whole table row at a time: it is made for few steps, here there are hundreds."""
    D = x_T.new_zeros(solver.nfe, len(x_T))
    x = x_T
    for n in range(solver.nfe):
        D[n] = denoise(x, solver.sigma_eval[n])
        x = solver.start[n + 1] * x_T + solver.weight[n + 1] @ D
    return x


def slopes(row: Row, kind: str, steps: tuple[int, int] = (128, 256)) -> Tensor:
    """Measured order [2]: how the logarithm of the error falls with that of the number of steps."""
    few, many = (errors(row, kind, n) for n in steps)
    return torch.log(few / many) / torch.log(torch.tensor(steps[1] / steps[0]))


HEAD = """# Convergence

How fast the error of every textbook solver falls with the number of steps, measured beside what theory says. Written by
`python tests/shared/convergence.py > docs/convergence.md`; `tests/core/test_classical.py` asserts it.

Measured order of every textbook solver: the slope of log error against log steps, from 128 to 256 steps, float64, from
sigma 2 to 0.5. Two problems with exact solutions, six samples each: Gaussian data of standard deviation 0.2 to 2.5, and
two points at -1 and +1 (nonlinear). *Equal* steps are equal in log sigma. *Graded* steps shrink like 1/N^2 towards both
ends, so that the low orders of the first and last steps no longer count and the solver shows the order of its interior.

What theory says:

- A first-order first step leaves an error of 1/N^2 however good the rest: multistep solvers (dpmpp, deis, ipndm) have
  order 2 at most on equal steps. A first-order last step (`lower_order_final`) does the same to UniPC. Without it UniPC
  reaches 3, because the corrector mends the first step.
- UniPC of order k with its corrector has order k + 1.
- DPM-Solver++(3M) has **order 2**, not 3, on any steps. Its second difference `D2` is half a second derivative but
  is weighted with `phi_3`, where Taylor's formula needs `2 phi_3`. The implementations we compared with all have this
  weight, and so have we; with twice the weight the slope is 3 (tested). The singlestep DPM-Solver-3 has order 3.
- iPNDM takes the weights of equal steps in sigma whatever the steps, so order 2 is all it has on others. On equal steps
  in sigma the first step caps it at 2 as well.

| solver | theory, equal | Gaussian | two points | theory, graded | Gaussian | two points |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    print(HEAD, end="")
    for row in rows():
        cells = []
        for kind in ("equal", "graded"):
            mark = "*" if row.late == kind else ""
            measured = [f"{value:.2f}{mark}" for value in slopes(row, kind).tolist()]
            cells += [str(getattr(row, kind)), *measured]
        print("| " + " | ".join([row.label, *cells]) + " |")
    print("\n\\* not yet at its limit: with 512 steps and more the slope moves on towards theory.")


if __name__ == "__main__":
    main()
