"""The textbook updates, each written as in its paper, run once on coefficient rows.

A state is a row [1 + nfe]: its coefficients over ``(x_T, D[0], ..., D[nfe-1])``. The published update run on rows
instead of images gives the solver's table. Levels are ``sigma`` in EDM coordinates (alpha = 1), ``h`` a positive step
in ``lam = -log sigma``, ``m`` a model output (``D`` or ``eps``). Adding a solver: one function, one row in ``SOLVERS``.
No function looks at the grid's values, so all are differentiable and work under ``torch.func``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

Prediction = Literal["x0", "eps"]
Arrays = tuple[Tensor, Tensor, Tensor, Tensor]


class Trace:
    """Records the nodes at which a solver calls the network, and hands back each output as a row.

    Args:
        like: tensor whose dtype and device the rows take.
        nfe: number of network evaluations the solver will make.
        sigma_eval: [nfe] level the network is given, where it differs from the node's own (decoupled times).
        convert: with decoupled times, whether a noise prediction becomes data at the level the network saw (``eval``,
            LD3) or at the node's own (``grid``, GAS).
    """

    def __init__(self, like: Tensor, nfe: int, sigma_eval: Tensor | None = None, convert: str = "eval") -> None:
        unit = torch.eye(1 + nfe, dtype=like.dtype, device=like.device)
        self.x_T: Tensor = unit[0]
        self.outputs: list[Tensor] = list(unit[1:])
        self.sigma_eval, self.convert = sigma_eval, convert
        self.nodes: list[Tensor] = []
        self.levels: list[Tensor] = []

    @property
    def left(self) -> int:
        """Network evaluations not made yet."""
        return len(self.outputs) - len(self.nodes)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Row of the data prediction at node ``x`` of level ``sigma``."""
        D, level = self._evaluate(x, sigma)
        return D if level is sigma or self.convert == "eval" else x - sigma * ((x - D) / level)

    def eps(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Row of the noise prediction at node ``x`` of level ``sigma``."""
        D, level = self._evaluate(x, sigma)
        return (x - D) / level

    def output(self, x: Tensor, sigma: Tensor, prediction: str) -> Tensor:
        """Row of either prediction, ``x0`` or ``eps``."""
        return self.denoise(x, sigma) if prediction == "x0" else self.eps(x, sigma)

    def arrays(self, x: Tensor, sigma: Tensor) -> Arrays:
        """The solver's four arrays, given its last node."""
        levels, rows = torch.stack([*self.levels, sigma]), torch.stack([*self.nodes, x])
        return levels, levels[:-1] if self.sigma_eval is None else self.sigma_eval, rows[:, 0], rows[:, 1:]

    def _evaluate(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        j = len(self.nodes)
        self.nodes.append(x)
        self.levels.append(sigma)
        return self.outputs[j], sigma if self.sigma_eval is None else self.sigma_eval[j]


def ddim(trace: Trace, grid: Tensor) -> Tensor:
    """DDIM (Song et al. 2021, Eq. 12 with eta = 0), which is Euler in sigma (EDM, Karras et al. 2022, Alg. 1)."""
    x = trace.x_T
    for s, s_next in pairwise(grid):
        D = trace.denoise(x, s)
        x = s_next / s * x + (1 - s_next / s) * D
    return x


def heun(trace: Trace, grid: Tensor) -> Tensor:
    """Heun's method in sigma (EDM, Karras et al. 2022, Alg. 1): two evaluations a step, one in a last step to 0."""
    x = trace.x_T
    for s, s_next in pairwise(grid):
        slope = trace.eps(x, s)
        euler: Tensor = x + (s_next - s) * slope
        if not trace.left:
            return euler
        x = x + (s_next - s) * (slope + trace.eps(euler, s_next)) / 2
    return x


def ipndm(trace: Trace, grid: Tensor, order: Literal[1, 2, 3, 4] = 3) -> Tensor:
    """iPNDM (PNDM, Liu et al. 2022, with the rising order of Zhang & Chen 2023): weights of equal steps, always."""
    x, eps = trace.x_T, list[Tensor]()
    for s, s_next in pairwise(grid):
        eps.insert(0, trace.eps(x, s))
        weights = ADAMS_BASHFORTH[min(order, len(eps)) - 1]
        x = x + (s_next - s) * sum(b * e for b, e in zip(weights, eps, strict=False))
    return x


ADAMS_BASHFORTH = (1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24)


def deis(
    trace: Trace, grid: Tensor, order: Literal[1, 2, 3, 4] = 3, variant: Literal["rhoab", "tab"] = "rhoab"
) -> Tensor:
    """DEIS (Zhang & Chen 2023, Eq. 15): eps interpolated by a polynomial through ``order`` points, integrated exactly.

    ``rhoab`` interpolates in sigma: Adams-Bashforth for unequal steps. ``tab`` interpolates in the time of the VP
    process that reaches sigma 0.002 at time 1e-3 and 80 at time 1, whatever the grid, as diff-sampler does.
    """
    x, eps = trace.x_T, list[Tensor]()
    for n, (s, s_next) in enumerate(pairwise(grid)):
        eps.insert(0, trace.eps(x, s))
        nodes = grid[max(0, n + 1 - order) : n + 1].flip(0)
        x = x + sum(c * e for c, e in zip(_interpolation(nodes, s, s_next, variant), eps, strict=False))
    return x


def dpmpp(
    trace: Trace,
    grid: Tensor,
    order: Literal[1, 2, 3] = 3,
    variant: Literal["midpoint", "taylor"] = "midpoint",
    prediction: Prediction = "x0",
    lower_order_final: bool = True,
    singlestep: bool = False,
    orders: Sequence[int] | None = None,
    inner: Sequence[float] | Tensor | None = None,
) -> Tensor:
    """DPM-Solver++ multistep (Lu et al. 2022b, Alg. 2; order 3 as in their code); with ``prediction="eps"`` DPM-Solver.

    ``variant`` is the second-order weight: ``phi_1 / 2`` (midpoint) or ``phi_2`` (taylor). ``lower_order_final`` caps
    the order by the steps left, at every number of steps. ``singlestep``, ``orders``, ``inner``: see ``_singlestep``.
    """
    steps = len(grid) - 1
    if singlestep:
        return _singlestep(trace, grid, orders or [order] * steps, variant, prediction, inner)
    x, m = trace.x_T, list[Tensor]()
    for n, (s, s_next) in enumerate(pairwise(grid)):
        m.append(trace.output(x, s, prediction))
        k = order_of_step(n, steps, order, lower_order_final)
        carry, phi = transfer(s, s_next, prediction, k)
        x = carry * x - phi[0] * m[n]
        if k >= 2:
            h = torch.log(s / s_next)
            r0 = torch.log(grid[n - 1] / s) / h
            D1_0 = (m[n] - m[n - 1]) / r0
        if k == 2:
            x = x - (phi[0] / 2 if variant == "midpoint" else phi[1]) * D1_0
        if k == 3:
            r1 = torch.log(grid[n - 2] / grid[n - 1]) / h
            D1_1 = (m[n - 1] - m[n - 2]) / r1
            D1 = D1_0 + r0 / (r0 + r1) * (D1_0 - D1_1)
            D2 = (D1_0 - D1_1) / (r0 + r1)
            x = x - phi[1] * D1 - phi[2] * D2  # as published: 2 phi_3 would make the order 3
    return x


def _singlestep(
    trace: Trace,
    grid: Tensor,
    orders: Sequence[int],
    variant: str,
    prediction: Prediction,
    inner: Sequence[float] | Tensor | None,
) -> Tensor:
    """DPM-Solver-2S and -3S (Lu et al. 2022a, Alg. 1 and 2; ++: Lu et al. 2022b, Alg. 1), fresh stages in every step.

    Args:
        grid: the ends of the steps.
        orders: stages of each step; nfe is their sum.
        inner: levels of the stages inside the steps, in order of use; default equal parts of each step in lam.
    """
    given = None if inner is None else iter(torch.as_tensor(inner, dtype=grid.dtype, device=grid.device))
    x = trace.x_T
    for (s, s_next), k in zip(pairwise(grid), orders, strict=True):
        stages = [s * (s_next / s) ** (i / k) if given is None else next(given) for i in range(1, k)]
        carry, phi = transfer(s, s_next, prediction, k)
        m = trace.output(x, s, prediction)
        x_next = carry * x - phi[0] * m
        if k >= 2:
            r1, *r2 = (torch.log(s / stage) / torch.log(s / s_next) for stage in stages)
            carry, psi = transfer(s, stages[0], prediction, 1)
            m1 = trace.output(carry * x - psi[0] * m, stages[0], prediction)
        if k == 2:
            x_next = x_next - (phi[0] / 2 if variant == "midpoint" else phi[1]) / r1 * (m1 - m)
        if k == 3:
            carry, psi = transfer(s, stages[1], prediction, 2)
            m2 = trace.output(carry * x - psi[0] * m - r2[0] / r1 * psi[1] * (m1 - m), stages[1], prediction)
            x_next = x_next - phi[1] / r2[0] * (m2 - m)
        x = x_next
    return x


def unipc(
    trace: Trace,
    grid: Tensor,
    order: Literal[1, 2, 3] = 3,
    variant: Literal["bh1", "bh2"] = "bh2",
    prediction: Prediction = "x0",
    lower_order_final: bool = True,
) -> Tensor:
    """UniPC (Zhao et al. 2023, Alg. 1 and 2): a corrector after every step but the last, at no extra evaluation.

    The output at the predicted state serves the corrector and the next step. ``B(h)`` cancels from every weight that
    is solved for; ``variant`` acts in the two that are fixed at 1/2, the predictor of order 2 and corrector of order 1.
    """
    steps = len(grid) - 1
    x = trace.x_T
    m = [trace.output(x, grid[0], prediction)]
    for n, (s, s_next) in enumerate(pairwise(grid)):
        k = order_of_step(n, steps, order, lower_order_final)
        last = n == steps - 1
        carry, phi = transfer(s, s_next, prediction, k if last else k + 1)
        x = base = carry * x - phi[0] * m[n]
        if last and k == 1:
            break  # before the logarithm, so that it can end at level 0
        h = torch.log(s / s_next)
        half = (phi[0] if variant == "bh2" else -h if prediction == "x0" else s_next * h) / 2  # B(h) / 2
        r = [torch.log(s / grid[n - i]) / h for i in range(1, k)]
        D1 = [(m[n - i] - m[n]) / r[i - 1] for i in range(1, k)]
        if k > 1:
            rho = [half] if k == 2 else vandermonde(r, phi)
            x = base - sum(p * d for p, d in zip(rho, D1, strict=True))
        if not last:
            m.append(trace.output(x, s_next, prediction))
            rho = [half] if k == 1 else vandermonde([*r, torch.ones_like(h)], phi)
            x = base - sum(p * d for p, d in zip(rho, [*D1, m[n + 1] - m[n]], strict=True))
    return x


SOLVERS: dict[str, Callable[..., Tensor]] = {
    "ddim": ddim,
    "deis": deis,
    "dpmpp": dpmpp,
    "heun": heun,
    "ipndm": ipndm,
    "unipc": unipc,
}


def order_of_step(n: int, steps: int, order: int, lower_order_final: bool) -> int:
    """Order of step n: what the history allows, and what the steps left allow."""
    return min(order, n + 1, steps - n if lower_order_final else order)


def transfer(s: Tensor, s_next: Tensor, prediction: Prediction, order: int) -> tuple[Tensor | float, list[Tensor]]:
    """The exponential integrator's numbers: ``carry`` of x, and scale times the unnormalised phi_1 to phi_order.

    ``phi_1(z) = e^z - 1``, ``phi_{k+1} = phi_k / z - 1/k!``, with ``z = -h``, scale 1 for data and ``z = h``, scale
    ``s_next`` for noise prediction. Order 1 takes no logarithm, so that it can end at level 0.
    """
    data = prediction == "x0"
    carry, scale = (s_next / s, 1.0) if data else (1.0, s_next)
    phi = [s_next / s - 1 if data else s - s_next]
    for k in range(1, order):
        z = torch.log(s_next / s) if data else torch.log(s / s_next)
        phi.append(phi[-1] / z - scale / math.factorial(k))
    return carry, phi


def vandermonde(r: list[Tensor], phi: list[Tensor]) -> list[Tensor]:
    """UniPC's weights (Zhao et al. 2023, Theorem 3.1), times B(h): ``sum_j r_j^(i-1) rho_j = i! phi_{i+1}``."""
    R = torch.stack([torch.stack(r) ** i for i in range(len(r))])
    b = torch.stack([math.factorial(i) * phi[i] for i in range(1, len(r) + 1)])
    return list(torch.linalg.solve(R, b))


def _interpolation(nodes: Tensor, s: Tensor, s_next: Tensor, variant: str) -> Iterator[Tensor]:
    """Integrals over sigma from s to s_next of the Lagrange polynomials through ``nodes``, by Gauss-Legendre."""
    u, w = (torch.as_tensor(v).to(s) for v in _gauss_legendre(2 if variant == "rhoab" else 64))
    if variant == "rhoab":  # a polynomial of degree 3 at most: exact
        at, points, d_sigma = nodes, s + (s_next - s) * u, (s_next - s) * w
    else:
        sigma = s * torch.exp(torch.log(s_next / s) * u)
        at, points, d_sigma = _deis_time(nodes), _deis_time(sigma), sigma * torch.log(s_next / s) * w
    for j in range(len(nodes)):
        others = [k for k in range(len(nodes)) if k != j]
        yield (math.prod([(points - at[k]) / (at[j] - at[k]) for k in others], start=d_sigma)).sum()


def _deis_time(sigma: Tensor) -> Tensor:
    """Time of the VP process with ``log(1 + sigma^2) = beta_d t^2 / 2 + beta_0 t`` through (1e-3, 0.002), (1, 80)."""
    first, last = math.log1p(0.002**2), math.log1p(80.0**2)
    beta_d = 2 * (first / 1e-3 - last) / (1e-3 - 1)
    beta_0 = last - beta_d / 2
    return (torch.sqrt(beta_0**2 + 2 * beta_d * torch.log1p(sigma**2)) - beta_0) / beta_d


@cache
def _gauss_legendre(points: int) -> tuple[Any, Any]:
    u, w = np.polynomial.legendre.leggauss(points)
    return (1 + u) / 2, w / 2
