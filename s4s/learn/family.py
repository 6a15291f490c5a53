"""Learned families: functions ``parameters -> the arrays of a Solver``, each starting exactly at a given solver.

A family is a grid part and a weight part. The grid part turns ``grid`` (step sizes in log level) and ``shift``
(decoupled times) into levels that fall whatever the parameters. The weight part turns ``weight`` into table rows:

| family    | node n+1                                                                    | learned numbers a step |
|-----------|-----------------------------------------------------------------------------|------------------------|
| classical | the textbook solver on the learned grid (LD3)                               | none                   |
| lms       | ``r x[n] + (1 - r) sum_{j<k} b[n, j] f[n-j]``, ``r = sigma[n+1] / sigma[n]`` | k                      |
| pc        | the same from a corrected state, which weighs f[n+1] too                    | k + (k + 1)            |
| ss        | k stages a step, each weighing those before it in its step                  | k (k+1) / 2 + (k - 1)  |
| guided    | the textbook node plus ``(1 - r) sum_{j<=n} b[n, j] D[j]``, carried along    | n + 1                  |
| full      | every entry of the table (BNS)                                              | n + 2                  |
| cfg       | lms, each output mixed at a scale of its own, ``g D + (1 - g) D_null``      | k + 1                  |
| columns   | lms, and as many weights of the differences ``D - D_null``                  | 2 k                    |

``f = D`` or ``f = eps`` (then ``x[n] + (sigma[n+1] - sigma[n]) sum_j b[n, j] eps[n-j]``), whichever has the shorter
history in the starting solver. Source: S4S (arXiv:2502.17423), LD3 (2405.15506), BNS (2403.01329), GS (2510.17699).
See docs/families.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from s4s import classical, spacing
from s4s.errors import Error, require_choice
from s4s.guidance import split_guidance
from s4s.learn.apart import cfg, columns
from s4s.learn.methods import APART
from s4s.learn.multistep import Weights, lms, pc
from s4s.learn.singlestep import ss
from s4s.solver import Arrays, Solver, solver_of
from s4s.steps import lags, lower, walk


@dataclass(frozen=True)
class Family:
    """A parameterised set of solvers.

    Args:
        kind: a key of ``FAMILIES``.
        theta: [p] float64, the parameters that reproduce the starting solver.
        blocks: name -> slice of theta; the names are ``weight``, ``grid`` and ``shift``.
        arrays: theta [p] -> the arrays of a solver; differentiable, usable under ``torch.func``.
        start: the solver it starts from.
        balanced: as in ``Weights``.
    """

    kind: str
    theta: Tensor
    blocks: Mapping[str, slice]
    arrays: Callable[[Tensor], Arrays]
    start: Solver
    balanced: Tensor | None = None

    def solver(self, theta: Tensor) -> Solver:
        """The solver at ``theta``, checked."""
        return solver_of(self.arrays(theta), self.start.name)

    def moves(self, *names: str) -> Tensor:
        """[p, q] directions in which theta may move: those of the named blocks, each parameter by itself.

        Besides blocks there is ``balanced weight``: weights, with the sum of every step's kept in data form.
        """
        eye = torch.eye(len(self.theta), dtype=torch.float64)
        made = {name: eye[:, block] for name, block in self.blocks.items()}
        made["balanced weight"] = made["weight"] if self.balanced is None else made["weight"] @ self.balanced
        return torch.cat([made[name] for name in names], 1)

    def turns(self, cycle: Sequence[tuple[str, ...]]) -> list[Tensor]:
        """Moves of each turn of a cycle of blocks, without turns that move nothing: a single step has no grid."""
        return [moves for names in cycle if (moves := self.moves(*names)).shape[1]]


def family(
    start: Solver, kind: str = "lms", order: int | None = None, convert: Any = None, guidance: float | None = None
) -> Family:
    """Family ``kind`` around a solver, with theta at that solver.

    Args:
        start: any solver; ``classical`` and ``guided`` need a multistep one made by ``s4s.solver``.
        kind: ``lms``, ``pc``, ``ss``, ``classical``, ``guided``, ``full``, ``cfg`` or ``columns``.
        order: outputs a step of ``lms`` may use, or a predictor of ``pc``; stages of a step of ``ss``. By default what
            the start uses, which is also the least.
        convert: with decoupled times, where a noise prediction becomes data, as in ``s4s.solver``: ``eval`` or
            ``grid``. By default what the start says, else ``eval``.
        guidance: for ``cfg`` and ``columns``, the constant scale of a start that leaves guidance to the model.

    Raises:
        Error: unknown kind, an order the start does not fit in, or a start the family cannot represent.
    """
    require_choice("family", kind, FAMILIES)
    if order is not None and kind not in WITH_ORDER:
        raise Error(f"family {kind!r} has no order: it uses the whole history")
    if start.sigma[-1] == 0:
        raise Error(f"{start.name} ends at level 0, learned solvers end above it: s4s.grid(levels, process, nfe, "
                    "end_at_zero=False) puts sigma_min there, and finish() takes the fitted solver to 0")  # fmt: skip
    convert = start.provenance.get("convert", "eval") if convert is None else convert
    require_choice("convert", convert, ("eval", "grid"))
    if start.null is not None and kind not in APART:
        raise Error(f"{start.name} has guidance of its own, which family {kind!r} has not; choose {' or '.join(APART)}")
    start = start.detach()
    if kind in APART and guidance is not None:
        start = split_guidance(start, guidance)
    made = FAMILIES[kind](start, order, convert)
    grid, shift = spacing.parameters(start, made.ends)
    ends = start.sigma[[0, -1]]
    sizes = [len(made.theta), len(grid), len(shift)]
    stops = torch.tensor(sizes).cumsum(0).tolist()
    blocks = {name: slice(b - n, b) for name, n, b in zip(("weight", "grid", "shift"), sizes, stops, strict=True)}

    def arrays(theta: Tensor) -> Arrays:
        weight = theta[blocks["weight"]]
        sigma, sigma_eval = spacing.levels(theta[blocks["grid"]], theta[blocks["shift"]], ends)
        if made.levels is not None:
            sigma, sigma_eval = made.levels(weight, sigma, sigma_eval)
        return sigma, sigma_eval, *made.rows(weight, sigma, sigma_eval)

    result = Family(kind, torch.cat([made.theta, grid, shift]), blocks, arrays, start, made.balanced)
    _require_start(result)
    return result


def _classical(start: Solver, order: None, convert: str) -> Weights:
    """LD3 (arXiv:2405.15506): textbook weights of the learned grid."""
    textbook = _textbook(start, convert)
    return Weights(start.sigma.new_empty(0), lambda b, sigma, sigma_eval: textbook(sigma, sigma_eval))


def _guided(start: Solver, order: None, convert: str) -> Weights:
    """Generalised solver (arXiv:2510.17699): textbook rows of the learned grid plus corrections over all history."""
    textbook = _textbook(start, convert)
    n, lag = lags(start.nfe, start.nfe)

    def rows(b: Tensor, sigma: Tensor, sigma_eval: Tensor) -> tuple[Tensor, Tensor]:
        base_start, base = textbook(sigma, sigma_eval)
        _, correction = walk(lower(b, n, n - lag, start.nfe), sigma, sigma_eval, "x0")
        return base_start, base + correction

    return Weights(start.sigma.new_zeros(len(n)), rows)


def _full(start: Solver, order: None, convert: str) -> Weights:
    """Bespoke non-stationary solver (arXiv:2403.01329): every entry of the table is free."""
    n, lag = lags(start.nfe, start.nfe)
    scale = start.sigma[1:] / start.sigma[0]

    def rows(b: Tensor, sigma: Tensor, sigma_eval: Tensor) -> tuple[Tensor, Tensor]:
        x_T = torch.cat([b.new_ones(1), b[: start.nfe] * scale])
        weight = lower(b[start.nfe :], n, n - lag, start.nfe)
        return x_T, torch.cat([weight.new_zeros(1, start.nfe), weight])

    return Weights(torch.cat([start.start[1:] / scale, start.weight[n + 1, n - lag]]), rows)


WITH_ORDER: dict[str, Callable[..., Weights]] = {"lms": lms, "pc": pc, "ss": ss, "cfg": cfg, "columns": columns}
FAMILIES: dict[str, Callable[..., Weights]] = {"classical": _classical, **WITH_ORDER, "guided": _guided, "full": _full}


def is_textbook(start: Solver) -> bool:
    """Whether ``classical`` and ``guided`` can start from it: a multistep solver made by ``s4s.solver``."""
    made: dict[str, Any] = dict(start.provenance)
    return "solver" in made and classical.evaluations(made["solver"], start.nfe, **made["options"]) == start.nfe


def _textbook(start: Solver, convert: str) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Rows of the starting textbook solver as a function of the levels."""
    if not is_textbook(start):
        raise Error(f"{start.name}: this family needs a multistep start made by s4s.solver(name, grid, ...), with one "
                    "evaluation a step; choose another")  # fmt: skip
    name, options = start.provenance["solver"], start.provenance["options"]

    def rows(sigma: Tensor, sigma_eval: Tensor) -> tuple[Tensor, Tensor]:
        return classical.arrays(name, sigma, sigma_eval=sigma_eval, convert=convert, **options)[2:]

    return rows


def _require_start(made: Family) -> None:
    for (key, target), value in zip(made.start.arrays.items(), made.arrays(made.theta), strict=True):
        if not torch.allclose(value, target, rtol=1e-10, atol=1e-10 * target.abs().max().item()):
            raise Error(
                f"family {made.kind!r} cannot represent {made.start.name} exactly (array '{key}'); choose another"
            )
