"""Calls without the condition that are left out: where they buy least, down to a budget of calls."""

from __future__ import annotations

import math

import torch

from s4s.errors import Error
from s4s.learn.objective import Objective
from s4s.learn.robust import robust_mean
from s4s.solver import Solver

JUDGED = 128  # held-out samples that tell what a call buys
WAYS = 4  # of leaving calls out that race
SHARE = 0.75  # of the calls with both outputs everywhere, which are kept unless a budget is given


def at_most(share: float, nfe: int) -> int:
    """The most calls a sample that are no more than a share of two an evaluation; one an evaluation at the least."""
    return max(nfe, math.floor(2 * share * nfe + 1e-9))


def budget(nfe: int, calls: int | None) -> int:
    """Calls a sample that are kept."""
    calls = at_most(SHARE, nfe) if calls is None else calls
    if not nfe <= calls <= 2 * nfe:
        raise Error(f"calls = {calls} is not possible at {nfe} evaluations: they take {nfe} to {2 * nfe} network calls")
    return calls


def fewer_calls(solver: Solver, calls: int, objective: Objective, scaled: bool) -> list[Solver]:
    """The solver with calls left out one after the other, those ways kept at which the held-out loss is least.

    What a way is worth is only known after a fit, so several are left to choose from, the nearest first.

    Args:
        calls: to be left.
        scaled: whether what is left must be a scale at every evaluation (family ``cfg``).
    """
    few, ways = objective.held_out.at(slice(JUDGED)), [solver]
    while ways[0].calls > calls:
        tried = {one.asks: one for way in ways for one in _one_fewer(way, scaled)}
        loss = {asks: robust_mean(objective.distances(one, few)) for asks, one in tried.items()}
        ways = [tried[asks] for asks in sorted(loss, key=lambda asks: loss[asks])[:WAYS]]
    return ways


def _one_fewer(solver: Solver, scaled: bool) -> list[Solver]:
    return [without(solver, j, scaled) for j, asked in enumerate(solver.asks) if asked]


def without(solver: Solver, j: int, scaled: bool = False) -> Solver:
    """The solver that does not ask for output ``j`` without the condition.

    Its difference to the one with the condition is taken to be that of the latest evaluation before with both; where
    there is none, or for a scale at every evaluation, the output with the condition stands alone.
    """
    assert solver.null is not None
    total, null = solver.weight + solver.null, solver.null.clone()
    before = [i for i in range(j) if solver.asks[i]]
    if before and not scaled:
        null[:, before[-1]] += null[:, j]
    null[:, j] = torch.zeros_like(null[:, j])
    return solver.replace(weight=total - null, null=null)
