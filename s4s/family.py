"""Learned families: functions ``parameters -> the arrays of a Solver``, each starting exactly at a given solver.

A family is a grid part and a weight part. The grid part turns ``grid`` (step sizes in log level) and ``shift``
(decoupled times) into levels that fall whatever the parameters. The weight part turns ``weight`` into table rows:

| family    | node n+1                                                                       | numbers a step |
|-----------|--------------------------------------------------------------------------------|----------------|
| classical | the textbook solver on the learned grid (LD3)                                  | none           |
| lms       | ``r x[n] + (1 - r) sum_{j<k} b[n, j] f[n-j]``, r = sigma[n+1]/sigma[n] (S4S)    | k              |
| guided    | the textbook node plus ``(1 - r) sum_{j<=n} b[n, j] D[j]`` carried along (GS)   | n + 1          |
| full      | every entry of the table (BNS)                                                 | n + 2          |

``f = D`` or ``f = eps`` (then ``x[n] + (sigma[n+1] - sigma[n]) sum_j b[n, j] eps[n-j]``), whichever has the shorter
history in the starting solver. Source: S4S (arXiv:2502.17423), LD3 (2405.15506), BNS (2403.01329), GS (2510.17699).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from s4s import classical
from s4s.errors import Error, choose
from s4s.solver import Solver
from s4s.textbook import Arrays, Trace

Rows = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(weight parameters, sigma, sigma_eval) -> start, weight``."""

SMALLEST_STEP = 1e-6  # share of the whole log range that every grid step keeps, whatever the parameters


@dataclass(frozen=True)
class Family:
    """A parameterised set of solvers.

    Args:
        kind: a key of ``FAMILIES``.
        theta: [p] float64, the parameters that reproduce the starting solver.
        blocks: name -> slice of theta; the names are ``weight``, ``grid`` and ``shift``.
        arrays: theta [p] -> the four arrays; differentiable, usable under ``torch.func``.
        start: the solver it starts from.
    """

    kind: str
    theta: Tensor
    blocks: Mapping[str, slice]
    arrays: Callable[[Tensor], Arrays]
    start: Solver

    def solver(self, theta: Tensor) -> Solver:
        """The solver at ``theta``, checked."""
        return Solver(*self.arrays(theta), name=self.start.name)

    def columns(self, *names: str) -> Tensor:
        """Indices of theta that belong to the named blocks."""
        index = torch.arange(len(self.theta))
        return torch.cat([index[self.blocks[name]] for name in names])


def family(start: Solver, kind: str = "lms", order: int | None = None) -> Family:
    """Family ``kind`` around a solver, with theta at that solver.

    Args:
        start: any solver; ``classical`` and ``guided`` need one made by ``s4s.solver``.
        kind: ``lms``, ``classical``, ``guided`` or ``full``.
        order: outputs a step of ``lms`` may use; at least what the start uses, which is also the default.

    Raises:
        Error: unknown kind, an order the start does not fit in, or a start the family cannot represent.
    """
    if kind not in FAMILIES:
        raise choose("family", kind, FAMILIES)
    if order is not None and kind != "lms":
        raise Error(f"family {kind!r} has no order: it uses the whole history")
    start = start.detach()
    weight, rows = FAMILIES[kind](start, order) if kind == "lms" else FAMILIES[kind](start)
    grid, shift = _grid_parameters(start)
    ends = start.sigma[[0, -1]]
    sizes = [len(weight), len(grid), len(shift)]
    stops = torch.tensor(sizes).cumsum(0).tolist()
    blocks = {name: slice(b - n, b) for name, n, b in zip(("weight", "grid", "shift"), sizes, stops, strict=True)}

    def arrays(theta: Tensor) -> Arrays:
        sigma, sigma_eval = _levels(theta[blocks["grid"]], theta[blocks["shift"]], ends)
        return sigma, sigma_eval, *rows(theta[blocks["weight"]], sigma, sigma_eval)

    made = Family(kind, torch.cat([weight, grid, shift]), blocks, arrays, start)
    _require_start(made)
    return made


def _classical(start: Solver) -> tuple[Tensor, Rows]:
    """LD3 (arXiv:2405.15506): textbook weights of the learned grid."""
    textbook = _textbook(start)
    return start.sigma.new_empty(0), lambda b, sigma, sigma_eval: textbook(sigma, sigma_eval)


def _lms(start: Solver, order: int | None) -> tuple[Tensor, Rows]:
    """S4S linear multistep with free weights, in data or noise form."""
    data, noise = _data_increments(start), _noise_increments(start)
    form, table = min((("x0", data), ("eps", noise)), key=lambda pair: _history(pair[1]))
    least = _history(table)
    order = least if order is None else order
    if order < least:
        raise Error(f"order {order} is below the {least} outputs a step of {start.name} uses; ask for order >= {least}")
    n, lag = _lags(start.nfe, order)

    def rows(b: Tensor, sigma: Tensor, sigma_eval: Tensor) -> tuple[Tensor, Tensor]:
        steps = torch.zeros(start.nfe, start.nfe, dtype=b.dtype).index_put((n, n - lag), b)
        return _walk(steps, sigma, sigma_eval, form)

    return table[n, n - lag], rows


def _guided(start: Solver) -> tuple[Tensor, Rows]:
    """Generalised solver (arXiv:2510.17699): textbook rows of the learned grid plus corrections over all history."""
    textbook = _textbook(start)
    n, lag = _lags(start.nfe, start.nfe)

    def rows(b: Tensor, sigma: Tensor, sigma_eval: Tensor) -> tuple[Tensor, Tensor]:
        base_start, base = textbook(sigma, sigma_eval)
        steps = torch.zeros(start.nfe, start.nfe, dtype=b.dtype).index_put((n, n - lag), b)
        _, correction = _walk(steps, sigma, sigma_eval, "x0")
        return base_start, base + correction

    return start.sigma.new_zeros(len(n)), rows


def _full(start: Solver) -> tuple[Tensor, Rows]:
    """Bespoke non-stationary solver (arXiv:2403.01329): every entry of the table is free."""
    n, lag = _lags(start.nfe, start.nfe)
    scale = start.sigma[1:] / start.sigma[0]

    def rows(b: Tensor, sigma: Tensor, sigma_eval: Tensor) -> tuple[Tensor, Tensor]:
        x_T = torch.cat([b.new_ones(1), b[: start.nfe] * scale])
        weight = torch.zeros(start.nfe, start.nfe, dtype=b.dtype).index_put((n, n - lag), b[start.nfe :])
        return x_T, torch.cat([weight.new_zeros(1, start.nfe), weight])

    return torch.cat([start.start[1:] / scale, start.weight[n + 1, n - lag]]), rows


FAMILIES: dict[str, Callable[..., tuple[Tensor, Rows]]] = {
    "classical": _classical,
    "lms": _lms,
    "guided": _guided,
    "full": _full,
}


def _grid_parameters(start: Solver) -> tuple[Tensor, Tensor]:
    """Inverse of ``_levels``: step-size logits [N-1] and shifts [N-1] of a solver."""
    if start.sigma[-1] == 0 or not (start.sigma.diff() < 0).all():
        raise Error(f"{start.name}: learning needs strictly falling levels that end above 0; end the grid at sigma_min")
    lam = -start.sigma.log()
    share = lam.diff() / (lam[-1] - lam[0])
    raw = share * (1 + SMALLEST_STEP * start.nfe) - SMALLEST_STEP
    if not (raw > 0).all():
        raise Error(f"{start.name}: two neighbouring levels are closer than {SMALLEST_STEP:g} of the grid's log range")
    logits = raw.log()
    moved = -start.sigma_eval[1:].log() - lam[1:-1]
    gap = torch.where(moved > 0, lam.diff()[1:], lam.diff()[:-1])
    bounded = 2 * moved / gap
    if start.sigma_eval[0] != start.sigma[0] or not (bounded.abs() < 1).all():
        raise Error(f"{start.name}: decoupled levels must keep the first level and stay within half a step of theirs")
    return (logits - logits[-1])[:-1], torch.atanh(torch.where(bounded.abs() < 1e-12, 0.0, bounded))


def _levels(logits: Tensor, shift: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Levels [N+1], falling by construction, and evaluation levels [N], each within half a step of its level."""
    n = len(logits) + 1
    share = torch.softmax(torch.cat([logits, logits.new_zeros(1)]), 0)
    share = (share + SMALLEST_STEP) / (1 + SMALLEST_STEP * n)
    first, last = -ends.log()
    lam = first + (last - first) * torch.cumsum(share, 0)[:-1]
    lam = torch.cat([first[None], lam, last[None]])
    step = lam.diff()
    moved = lam[1:-1] + torch.tanh(shift) / 2 * torch.where(shift > 0, step[1:], step[:-1])
    sigma = torch.cat([ends[:1], (-lam[1:-1]).exp(), ends[1:]])
    return sigma, torch.cat([ends[:1], (-moved).exp()])


def _walk(steps: Tensor, sigma: Tensor, sigma_eval: Tensor, form: str) -> tuple[Tensor, Tensor]:
    """Table rows of a multistep solver from its increments: steps [N, N], ``steps[n, j]`` weighs output j in step n."""
    trace = Trace(sigma, len(steps), sigma_eval)
    x = trace.x_T
    outputs: list[Tensor] = []
    for n, (here, there) in enumerate(pairwise(sigma)):
        outputs.append(trace.denoise(x, here) if form == "x0" else trace.eps(x, here))
        increment = (steps[n, : n + 1, None] * torch.stack(outputs)).sum(0)
        x = there / here * x + (1 - there / here) * increment if form == "x0" else x + (there - here) * increment
    return trace.arrays(x, sigma[-1])[2:]


def _data_increments(solver: Solver) -> Tensor:
    """[N, N] weights of D[j] in step n, in units of ``1 - r``; infinite where data form cannot express the step."""
    r = (solver.sigma[1:] / solver.sigma[:-1])[:, None]
    steps = (solver.weight[1:] - r * solver.weight[:-1]) / (1 - r)
    consistent = (solver.start[1:] - r[:, 0] * solver.start[:-1]).abs() < 1e-12
    return steps if consistent.all() else torch.full_like(steps, torch.inf)


def _noise_increments(solver: Solver) -> Tensor:
    """[N, N] weights of eps[j] in step n, in units of ``sigma[n+1] - sigma[n]``; infinite where not expressible."""
    nodes = torch.cat([solver.start[:, None], solver.weight], 1)  # [N+1, 1+N]: node rows over (x_T, D)
    outputs = torch.eye(solver.nfe + 1, dtype=torch.float64)[1:]
    eps = (nodes[:-1] - outputs) / solver.sigma_eval[:, None]
    change = nodes.diff(dim=0)
    steps = torch.linalg.solve_triangular(eps[:, 1:].T, change[:, 1:].T, upper=True).T
    consistent = (steps @ eps[:, 0] - change[:, 0]).abs() < 1e-12
    steps = steps / solver.sigma.diff()[:, None]
    return steps if consistent.all() else torch.full_like(steps, torch.inf)


def _history(steps: Tensor) -> int:
    """Outputs a step looks back on, at most; beyond any NFE where the form cannot express the solver."""
    if not steps.isfinite().all():
        return len(steps) + 1
    n, j = (steps.abs() > 1e-10).nonzero(as_tuple=True)
    return int((n - j).max()) + 1


def _lags(nfe: int, order: int) -> tuple[Tensor, Tensor]:
    """Step and lag of every free weight: step n uses lags 0..min(order, n+1)-1."""
    pairs = [(n, lag) for n in range(nfe) for lag in range(min(order, n + 1))]
    n, lag = torch.tensor(pairs).T
    return n, lag


def _textbook(start: Solver) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Rows of the starting textbook solver as a function of the levels."""
    made: dict[str, Any] = dict(start.provenance)
    if "solver" not in made:
        raise Error(f"{start.name}: this family needs a start made by s4s.solver(name, grid, ...)")
    name, options = made["solver"], made.get("options", {})

    def rows(sigma: Tensor, sigma_eval: Tensor) -> tuple[Tensor, Tensor]:
        return classical.arrays(name, sigma, sigma_eval=sigma_eval, **options)[2:]

    return rows


def _require_start(made: Family) -> None:
    for key, value in zip(("sigma", "sigma_eval", "start", "weight"), made.arrays(made.theta), strict=True):
        target = getattr(made.start, key)
        if not torch.allclose(value, target, rtol=1e-10, atol=1e-10 * target.abs().max().item()):
            raise Error(
                f"family {made.kind!r} cannot represent {made.start.name} exactly (array '{key}'); choose another"
            )
