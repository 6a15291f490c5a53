"""Families that weigh outputs with and without the condition apart, around a multistep solver under guidance."""

from __future__ import annotations

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.guidance import merge_guidance
from s4s.learn.multistep import Weights, free_weights
from s4s.solver import Solver
from s4s.steps import lower, step, walk
from s4s.textbook import Trace


def cfg(start: Solver, order: int | None, convert: str) -> Weights:
    """``lms`` whose every evaluation mixes its two outputs at a scale of its own."""
    mixed, scales = merge_guidance(_apart(start))
    form, table, n, lag = free_weights(mixed, order, convert)
    asked = torch.tensor([j for j, both in enumerate(start.asks) if both], dtype=torch.int64)

    def rows(b: Tensor, sigma: Tensor, sigma_eval: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x_T, weight = walk(lower(b[: len(n)], n, n - lag, start.nfe), sigma, sigma_eval, form, convert)
        scale = torch.ones(start.nfe, dtype=b.dtype).index_put((asked,), b[len(n) :])
        return x_T, weight * scale, weight * (1 - scale)

    return Weights(torch.cat([table[n, n - lag], torch.tensor(scales, dtype=torch.float64)[asked]]), rows)


def columns(start: Solver, order: int | None, convert: str) -> Weights:
    """``lms``, and as many weights of the differences between the outputs, the latest that were asked for."""
    start = _apart(start)
    assert start.null is not None
    mixed = start.replace(weight=start.weight + start.null, null=None)
    form, table, n, lag = free_weights(mixed, order, convert)
    guide, used = _differences(start, table, form, convert), int(lag.max()) + 1
    latest = [[j for j in range(m, -1, -1) if start.asks[j]][:used] for m in range(start.nfe)]
    m, j = torch.tensor([(m, j) for m, found in enumerate(latest) for j in found], dtype=torch.int64).reshape(-1, 2).T

    def rows(b: Tensor, sigma: Tensor, sigma_eval: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        steps, extra = lower(b[: len(n)], n, n - lag, start.nfe), lower(b[len(n) :], m, j, start.nfe)
        return _walk(steps, extra, sigma, sigma_eval, form, convert)

    return Weights(torch.cat([table[n, n - lag], guide[m, j]]), rows)


def _apart(start: Solver) -> Solver:
    if start.null is None:
        raise Error(
            f"{start.name} leaves guidance to the model; s4s.split_guidance(solver, scale) makes it the solver's"
        )
    return start


def _walk(
    steps: Tensor, extra: Tensor, sigma: Tensor, sigma_eval: Tensor, form: str, convert: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows over ``x_T`` and the outputs with and without the condition, from increments of outputs with it and of
    differences between the two, both [N, N]."""
    N = len(steps)
    trace = Trace(sigma, 2 * N, torch.cat([sigma_eval, sigma_eval]), convert)
    nodes, outputs, moved = [trace.x_T], list[Tensor](), list[Tensor]()
    for n in range(N):
        outputs.append(trace.output(nodes[n], sigma[n], form))
        moved.append(trace.outputs[N + n] * _difference(sigma[n], sigma_eval[n], form, convert))
        weights = torch.cat([steps[n, : n + 1], extra[n, : n + 1]])
        nodes.append(step(nodes[n], sigma[n], sigma[n + 1], weights, [*outputs, *moved], form))
    _, _, x_T, rows = trace.arrays(nodes[-1], sigma[-1])
    return x_T, rows[:, :N] + rows[:, N:], -rows[:, N:]


def _difference(sigma: Tensor, level: Tensor, form: str, convert: str) -> Tensor:
    """What steps weigh (``D`` or ``eps``) of a difference between two data predictions of the same state."""
    if form == "eps":
        return -1 / level
    return sigma / level if convert == "grid" else torch.ones_like(level)


def _differences(start: Solver, steps: Tensor, form: str, convert: str) -> Tensor:
    """[N, N] increments of differences with which ``_walk`` gives the start's own rows: one step after the other."""
    assert start.null is not None
    guide, here = torch.zeros_like(steps), (start.sigma, start.sigma_eval, form, convert)
    levels = torch.stack(
        [_difference(s, e, form, convert) for s, e in zip(start.sigma, start.sigma_eval, strict=False)]
    )
    for n in range(start.nfe):
        unit = torch.zeros_like(guide)
        unit[n, n] = 1
        rows = _walk(steps, guide, *here)[2]
        one = _walk(steps, guide + unit, *here)[2][n + 1, n] - rows[n + 1, n]
        guide[n, : n + 1] = ((start.null[n + 1] - rows[n + 1]) / (one / levels[n] * levels))[: n + 1]
    return guide
