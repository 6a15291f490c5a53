"""Weight parts of two families, multistep (LMS) and predictor-corrector (PC); ``s4s.learn.singlestep`` has the third.

Each takes steps ``r x + (1 - r) sum_j w[n, j] f[j]`` for ``f = D``, with ``r = sigma[n+1] / sigma`` of the state ``x``
it leaves from, or ``x + (sigma[n+1] - sigma) sum_j w[n, j] f[j]`` for ``f = eps``. LMS leaves from the node before, PC
from the corrected state there, SS from the first node of its own step.

No family looks at the values of its parameters, so all work under ``torch.func``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.solver import Solver
from s4s.steps import history, increments, lags, lower, shortest, step, walk
from s4s.textbook import Trace, order_of_step, transfer, vandermonde

Rows = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, ...]]
"""``(weight parameters, sigma, sigma_eval) -> start, weight``, and ``null`` where outputs are weighed apart."""

Levels = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""``(weight parameters, sigma, sigma_eval) of the steps' ends -> sigma, sigma_eval`` of all nodes."""


class Weights(NamedTuple):
    """The weight part of a family: parameters that reproduce the start, and what they mean.

    Args:
        theta: [p] float64.
        rows: parameters and levels -> table rows.
        ends: nodes that the grid part moves; None is all of them.
        levels: adds the nodes inside the steps; None where there are none.
        balanced: [p, q] moves of theta that keep the sum of every step's weights; None is all moves.
    """

    theta: Tensor
    rows: Rows
    ends: list[int] | None = None
    levels: Levels | None = None
    balanced: Tensor | None = None


def lms(start: Solver, order: int | None, convert: str) -> Weights:
    """S4S linear multistep with free weights, in data or noise form."""
    form, table, n, lag = free_weights(start, order, convert)

    def rows(b: Tensor, sigma: Tensor, sigma_eval: Tensor) -> tuple[Tensor, Tensor]:
        return walk(lower(b, n, n - lag, start.nfe), sigma, sigma_eval, form, convert)

    return Weights(table[n, n - lag], rows, balanced=_balanced(n, lag, form))


def free_weights(start: Solver, order: int | None, convert: str) -> tuple[str, Tensor, Tensor, Tensor]:
    """Form and increments of a solver, and the steps and lags of the weights that are learned around it."""
    form, table = shortest(start, convert)
    least = history(table)
    if order is not None and order < least:
        raise Error(f"order {order} is below the {least} outputs a step of {start.name} uses; ask for order >= {least}")
    n, lag = lags(start.nfe, least if order is None else order)
    return form, table, n, lag


def pc(start: Solver, order: int | None, convert: str) -> Weights:
    """S4S predictor-corrector: ``order`` weights of the predictor and one more of the corrector in every step."""
    form, predictor, corrector = _predictor_corrector(start, order, convert)
    order = max(history(predictor), 1) if order is None else order
    n, lag = lags(start.nfe, order)
    m, back = lags(start.nfe, order + 1)  # of corrector m-1, into node m
    m, back = m[m > 0], back[m > 0]

    def rows(b: Tensor, sigma: Tensor, sigma_eval: Tensor) -> tuple[Tensor, Tensor]:
        predict = lower(b[: len(n)], n, n - lag, start.nfe)
        correct = lower(b[len(n) :], m - 1, m - back, start.nfe)
        return _walk_corrected(predict, correct, sigma, sigma_eval, form, convert)

    balanced = _balanced(torch.cat([n, start.nfe + m]), torch.cat([lag, back]), form)
    return Weights(torch.cat([predictor[n, n - lag], corrector[m - 1, m - back]]), rows, balanced=balanced)


def _balanced(n: Tensor, lag: Tensor, form: str) -> Tensor | None:
    """Moves of the weights of steps ``n`` [p] that keep each step's sum: an older one up, the step's latest down.

    None in noise form, and where that would leave nothing to learn: with one output a step.
    """
    if form == "eps" or not lag.any():
        return None
    latest = (n[:, None] == n) & (lag == 0)  # [p, p]
    return (torch.eye(len(n), dtype=torch.float64) - latest.double().T)[:, lag > 0]


def _walk_corrected(
    predict: Tensor, correct: Tensor, sigma: Tensor, sigma_eval: Tensor, form: str, convert: str
) -> tuple[Tensor, Tensor]:
    """Rows of a predictor-corrector: nodes are predicted, and every step leaves from a corrected state."""
    trace = Trace(sigma, len(predict), sigma_eval, convert)
    x = node = trace.x_T
    outputs = [trace.output(node, sigma[0], form)]
    for n, (here, there) in enumerate(pairwise(sigma)):
        node = step(x, here, there, predict[n], outputs, form)
        if trace.left:
            outputs.append(trace.output(node, there, form))
            x = step(x, here, there, correct[n], outputs, form)
    return trace.arrays(node, sigma[-1])[2:]


def _predictor_corrector(start: Solver, order: int | None, convert: str) -> tuple[str, Tensor, Tensor]:
    """Form, predictor [N, N] and corrector [N, N] of a solver.

    The table fixes only what both do together, so the split is a choice: UniPC's own for UniPC; else the corrector
    equals the predictor; else, one order below that, the oldest output of the predictor moves to the corrector, which
    adds its difference to the new output.
    """
    form, table = shortest(start, convert)
    predictor = table
    if start.provenance.get("solver") == "unipc":
        options: dict[str, Any] = dict(start.provenance.get("options", {}))
        form = options.get("prediction", "x0")
        table, predictor = increments(start, form, convert), _unipc_predictor(start, **options)
    least = history(predictor)
    if order is not None and order == least - 1 and predictor is table:
        n = torch.arange(least - 1, start.nfe)
        oldest = predictor[n, n - order]
        predictor = predictor.index_put((n, n - order), torch.zeros_like(oldest))
        predictor = predictor.index_put((n, n), predictor[n, n] + oldest)
    elif order is not None and order < least:
        least -= predictor is table
        raise Error(f"order {order} is too low for pc to hold {start.name}; ask for order >= {least}")
    carry = start.sigma[1:] / start.sigma[:-1] if form == "x0" else torch.ones(start.nfe, dtype=torch.float64)
    scale = 1 - carry if form == "x0" else start.sigma.diff()
    # a step from the corrected state must end where the table's, from the predicted one, ends
    moved = (scale / carry)[1:, None] * (table - predictor)[1:] / scale[:-1, None]
    return form, predictor, torch.cat([predictor[:-1] + moved, torch.zeros_like(predictor[:1])])


def _unipc_predictor(
    start: Solver, order: int = 3, variant: str = "bh2", prediction: Any = "x0", lower_order_final: bool = True
) -> Tensor:
    """[N, N] weights of UniPC's predictor (Zhao et al. 2023, Alg. 2); the rest of its table is the corrector's."""
    rows = []
    for n, (s, s_next) in enumerate(pairwise(start.sigma)):
        k = order_of_step(n, start.nfe, order, lower_order_final)
        _, phi = transfer(s, s_next, prediction, k + 1)
        h = torch.log(s / s_next)
        r = [torch.log(s / start.sigma[n - i]) / h for i in range(1, k)]
        rho = vandermonde(r, phi) if k > 2 else []
        if k == 2:
            rho = [(phi[0] if variant == "bh2" else -h if prediction == "x0" else s_next * h) / 2]
        older = [-p / a / -phi[0] for p, a in zip(rho, r, strict=True)]
        latest = torch.ones_like(h) - sum(older)
        row = [latest, *older]
        rows.append(
            torch.stack([row[n - j] if n - j < k and j <= n else torch.zeros_like(h) for j in range(start.nfe)])
        )
    return torch.stack(rows)
