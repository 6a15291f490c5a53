"""Weight part of the single-step family (SS): Runge-Kutta steps whose stages' weights and levels are learned."""

from __future__ import annotations

from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor

from s4s import classical
from s4s.errors import Error
from s4s.learn.multistep import Weights
from s4s.solver import Solver
from s4s.steps import increments, lags, lower, walk

SMALLEST_PART = 1e-6  # of what is left of a step: how close a stage may come to its neighbours


def ss(start: Solver, order: int | None, convert: str) -> Weights:
    """S4S single-step (Runge-Kutta like): weights and level of every stage, nothing carried from step to step."""
    sizes = _stages(start, order)
    ends = [0, *accumulate(sizes)]
    base = torch.tensor([first for first, size in zip(ends, sizes, strict=False) for _ in range(size)])
    form, table = _own_outputs(start, base, convert)
    n, lag = lags(start.nfe, max(sizes))
    n, j = n[n - lag >= base[n]], (n - lag)[n - lag >= base[n]]
    last = torch.tensor([_closing(start, first, end) for first, end in pairwise(ends)])
    places = _places(start, ends, last)

    def rows(b: Tensor, sigma: Tensor, sigma_eval: Tensor) -> tuple[Tensor, Tensor]:
        return walk(lower(b[: len(n)], n, j, start.nfe), sigma, sigma_eval, form, convert, base.tolist())

    def levels(b: Tensor, sigma: Tensor, sigma_eval: Tensor) -> tuple[Tensor, Tensor]:
        return _with_stages(b[len(n) :], sigma, sigma_eval, sizes, last.tolist())

    return Weights(torch.cat([table[n, j], places]), rows, ends, levels)


def _stages(start: Solver, order: int | None) -> list[int]:
    """Evaluations of each step: ``order`` in all but perhaps the last, or as the textbook solver makes them."""
    if order is not None:
        full, rest = divmod(start.nfe, order) if order > 0 else (0, 0)
        if not full:
            raise Error(f"order {order}: a step of ss takes 1 to {start.nfe} stages here")
        return [order] * full + [rest] * (rest > 0)
    if "solver" not in start.provenance:
        return [1] * start.nfe
    options: dict[str, Any] = dict(start.provenance.get("options", {}))
    steps = classical.intervals(start.provenance["solver"], start.nfe, **options)
    return options.get("orders") or [start.nfe // steps] * steps


def _own_outputs(start: Solver, base: Tensor, convert: str) -> tuple[str, Tensor]:
    """Form and increments of a solver whose steps use no output of an earlier step."""
    options = start.provenance.get("options", {})
    noise = start.provenance.get("solver") == "heun" or options.get("prediction") == "eps"
    for form in ("eps", "x0") if noise else ("x0", "eps"):
        table = increments(start, form, convert, base)
        earlier = torch.arange(start.nfe) < base[:, None]
        if table.isfinite().all() and not (table.abs() > 1e-10)[earlier].any():
            return form, table
    hint = "" if "solver" in start.provenance else ", or give order=, the number of stages"
    raise Error(f"ss cannot hold {start.name}: its steps use outputs of earlier steps; start from ddim, heun or dpmpp "
                f"with singlestep=True{hint}")  # fmt: skip


def _closing(start: Solver, first: int, end: int) -> bool:
    """Whether the last stage of a step lies at the step's end, as Heun's does."""
    return end - first > 1 and bool(start.sigma[end - 1] <= start.sigma[end] * (1 + 1e-12))


def _places(start: Solver, ends: list[int], last: Tensor) -> Tensor:
    """Parameters of the stages' levels: each cuts a share off what is left of its step, in log level."""
    lam = -start.sigma.log()
    made = []
    for k, (first, end) in enumerate(pairwise(ends)):
        for n in range(first + 1, end):
            share = (lam[n] - lam[n - 1]) / (lam[end] - lam[n - 1])
            closing = last[k] and n == end - 1
            inner = (share - SMALLEST_PART) / (1 - 2 * SMALLEST_PART)
            made.append(torch.zeros_like(share) if closing else torch.logit(inner))
    return torch.stack(made) if made else lam.new_empty(0)


def _with_stages(
    raw: Tensor, sigma: Tensor, sigma_eval: Tensor, sizes: list[int], last: list[bool]
) -> tuple[Tensor, Tensor]:
    """Levels of all nodes from those of the steps' ends; the stages fall, whatever the parameters.

    A stage at the end of its step can only move back from there.
    """
    levels, told, parts = list[Tensor](), list[Tensor](), iter(raw)
    for k, size in enumerate(sizes):
        levels.append(sigma[k])
        told.append(sigma_eval[k])
        for i in range(1, size):
            z, end = next(parts), sigma[k + 1]
            closing = last[k] and i == size - 1
            share = SMALLEST_PART + (1 - 2 * SMALLEST_PART) * torch.sigmoid(z)
            if closing:  # not clamp: its slope at the bound is 0
                share = SMALLEST_PART + (1 - SMALLEST_PART) * torch.where(z > 0, 0.0, z).exp()
            level = levels[-1] * (end / levels[-1]) ** share
            levels.append(level + (end - level).clamp(min=0).detach())  # never below the end, not by rounding either
            told.append(levels[-1])
    return torch.stack([*levels, sigma[-1]]), torch.stack(told)
