"""Levels that fall whatever the parameters: logits of step sizes in log level, and shifts of evaluation levels."""

from __future__ import annotations

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.solver import Solver

SMALLEST_STEP = 1e-6  # share of the whole log range that every grid step keeps, whatever the parameters
ROUNDING = 1e-12  # of a level's logarithm, and of shares of the log range and of half a step


def parameters(start: Solver, ends: list[int] | None) -> tuple[Tensor, Tensor]:
    """Inverse of ``levels``: step-size logits [N-1] and shifts [N-1] of a solver's nodes, or of its steps' ends."""
    ends = list(range(start.nfe + 1)) if ends is None else ends
    sigma, sigma_eval = start.sigma[ends], start.sigma_eval[ends[:-1]]
    if not (sigma.diff() < 0).all():
        raise Error(
            f"{start.name}: this family needs strictly falling levels; take a solver with one evaluation a step, or, "
            "with a method that leaves guidance to the model, family 'ss'"
        )
    lam = -sigma.log()
    share = lam.diff() / (lam[-1] - lam[0])
    raw = share * (1 + SMALLEST_STEP * len(sigma_eval)) - SMALLEST_STEP
    if not (raw > -ROUNDING).all():
        raise Error(f"{start.name}: two neighbouring levels are closer than {SMALLEST_STEP:g} of the grid's log range")
    logits = raw.clamp(min=ROUNDING**2).log()  # a step at its smallest: rounding may leave less than nothing
    moved = -sigma_eval[1:].log() - lam[1:-1]
    gap = torch.where(moved > 0, lam.diff()[1:], lam.diff()[:-1])
    bounded = 2 * moved / gap
    if sigma_eval[0] != sigma[0] or not (moved.abs() < gap / 2 + ROUNDING).all():
        raise Error(f"{start.name}: decoupled levels must keep the first level and stay within half a step of theirs")
    bounded = torch.where(bounded.abs() < ROUNDING, 0.0, bounded.clamp(ROUNDING - 1, 1 - ROUNDING))
    return (logits - logits[-1])[:-1], torch.atanh(bounded)


def levels(logits: Tensor, shift: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
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
