"""A solver's table as what its steps weigh, and back.

A step is ``r x + (1 - r) sum_j w[n, j] f[j]`` for ``f = D``, with ``r = sigma[n+1] / sigma`` of the state ``x`` it
leaves from, or ``x + (sigma[n+1] - sigma) sum_j w[n, j] f[j]`` for ``f = eps``. Nothing here looks at the values of
weights or levels but ``increments`` and ``history``, so all else works under ``torch.func``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from s4s.solver import Solver
from s4s.textbook import Trace


def walk(
    steps: Tensor, sigma: Tensor, sigma_eval: Tensor, form: str, convert: str = "eval", base: list[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Table rows of a solver from its increments: steps [N, N], ``steps[n, j]`` weighs output j in step n.

    Args:
        base: [N] node that step n leaves from; default n itself.
    """
    trace = Trace(sigma, len(steps), sigma_eval, convert)
    nodes = [trace.x_T]
    outputs: list[Tensor] = []
    for n in range(len(steps)):
        outputs.append(trace.output(nodes[n], sigma[n], form))
        first = n if base is None else base[n]
        nodes.append(step(nodes[first], sigma[first], sigma[n + 1], steps[n], outputs, form))
    return trace.arrays(nodes[-1], sigma[-1])[2:]


def increments(solver: Solver, form: str, convert: str = "eval", base: Tensor | None = None) -> Tensor:
    """Inverse of ``walk``: [N, N] weights; infinite where the form cannot express a step."""
    base = torch.arange(solver.nfe) if base is None else base
    decoupled = not torch.equal(solver.sigma_eval, solver.sigma[:-1])
    if form == "x0" and not (decoupled and convert == "grid"):
        r = (solver.sigma[1:] / solver.sigma[base])[:, None]
        steps = (solver.weight[1:] - r * solver.weight[base]) / (1 - r)
        missed = solver.start[1:] - r[:, 0] * solver.start[base]
    else:
        nodes = torch.cat([solver.start[:, None], solver.weight], 1)  # [N+1, 1+N]: node rows over (x_T, D)
        f, carry, scale = outputs_of(solver, nodes, form, convert), 1.0, solver.sigma[1:] - solver.sigma[base]
        if form == "x0":
            carry = (solver.sigma[1:] / solver.sigma[base])[:, None]  # type: ignore[assignment]
            scale = 1 - solver.sigma[1:] / solver.sigma[base]
        change = nodes[1:] - carry * nodes[base]
        steps = torch.linalg.solve_triangular(f[:, 1:].T, change[:, 1:].T, upper=True).T
        missed = steps @ f[:, 0] - change[:, 0]
        steps = steps / scale[:, None]
    size = max(1.0, solver.start.abs().max().item(), solver.weight.abs().max().item())  # of learned numbers: any
    return steps if (missed.abs() < 1e-12 * size).all() else torch.full_like(steps, torch.inf)


def shortest(start: Solver, convert: str) -> tuple[str, Tensor]:
    """The form, ``x0`` or ``eps``, in which steps look back on fewer outputs, and the increments in it."""
    forms = [(form, increments(start, form, convert)) for form in ("x0", "eps")]
    return min(forms, key=lambda pair: history(pair[1]))


def history(steps: Tensor) -> int:
    """Outputs a step looks back on, at most; beyond any NFE where the form cannot express the solver."""
    if not steps.isfinite().all():
        return len(steps) + 1
    n, j = (steps.abs() > 1e-10).nonzero(as_tuple=True)
    return int((n - j).max()) + 1


def lags(nfe: int, order: int) -> tuple[Tensor, Tensor]:
    """Step and lag of every free weight: step n uses lags 0..min(order, n+1)-1."""
    pairs = [(n, lag) for n in range(nfe) for lag in range(min(order, n + 1))]
    n, lag = torch.tensor(pairs).T
    return n, lag


def lower(values: Tensor, n: Tensor, j: Tensor, nfe: int) -> Tensor:
    """[nfe, nfe] matrix of zeros with the values at ``(n, j)``."""
    return torch.zeros(nfe, nfe, dtype=values.dtype).index_put((n, j), values)


def step(x: Tensor, here: Tensor, there: Tensor, weights: Tensor, outputs: list[Tensor], form: str) -> Tensor:
    increment = (weights[: len(outputs), None] * torch.stack(outputs)).sum(0)
    return there / here * x + (1 - there / here) * increment if form == "x0" else x + (there - here) * increment


def outputs_of(solver: Solver, nodes: Tensor, form: str, convert: str) -> Tensor:
    """[N, 1+N] rows of what steps weigh: ``eps``, or ``D`` converted at the node's own level."""
    D = torch.eye(solver.nfe + 1, dtype=torch.float64)[1:]
    eps = (nodes[:-1] - D) / solver.sigma_eval[:, None]
    return eps if form == "eps" else nodes[:-1] - solver.sigma[:-1, None] * eps
