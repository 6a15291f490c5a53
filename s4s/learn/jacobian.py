"""Gauss-Newton matrices of a solver family: how the loss bends as its few dozen parameters move.

Tangents travel through the sampler beside the states. The table rule is linear, so only the network needs a
derivative, and a directional one is a difference of two calls: one extra evaluation for every (direction, step) pair
in which the direction can already be felt. So parameters are turned into directions that are felt as late as can be;
one of the last step costs nothing at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from s4s.learn.distance import Distance
from s4s.learn.moments import derivatives
from s4s.learn.moments import moments as moments_of
from s4s.learn.quadratic import Quadratic
from s4s.learn.robust import robust, shares, tolerance_of
from s4s.solver import Denoise, node
from s4s.textbook import Arrays

PERTURBATION = 1e-3  # of the level; small against the network's curvature, large against float32 rounding
ROWS = 512  # rows of a network call that differentiates
UNFELT = 1e-9  # share of an array entry's slope along which it counts as not moving


def gauss_newton(
    arrays: Callable[[Tensor], tuple[Tensor, ...]],
    theta: Tensor,
    denoise: Denoise,
    d: Distance,
    x_T: Tensor,
    y: Tensor,
    *,
    tolerance: float | None = float("inf"),
    moments: float = 0.0,
    rows: int = ROWS,
    perturbation: float = PERTURBATION,
) -> Quadratic:
    """Linearise the mean robust distance of the samples to ``y``, and their batch's moments, in the parameters.

    Args:
        arrays: parameters [p] -> arrays of a solver, differentiable.
        x_T, y: [B, ...] starting noises and teacher outputs.
        tolerance: of ``robust``; infinite is the distance itself, None ``tolerance_of`` these samples.
        moments: weight of the gap between the moments of the samples and of ``y``, see ``s4s.learn.moments``.
        rows: rows of a network call that differentiates; at least B are taken.
        perturbation: of the level in differences of two calls; more than the default for networks in half precision.
    """
    moves = _Moves(rows, perturbation)
    values = [a.detach() for a in arrays(theta)]
    back, slopes = _felt_late(torch.func.jacfwd(arrays)(theta))
    with torch.no_grad():
        x, tangents, evaluations = _propagate(values, slopes, denoise, x_T, moves)
        features, target = d.features(x), d.features(y)
        residual = features - target
        columns = _directional(lambda z, _: d.features(z), x, features, tangents, None, torch.tensor(1.0), moves)
        none = torch.zeros_like(residual)  # of a direction that is felt nowhere
        J = torch.stack([(none if c is None else c).flatten() for c in columns]).double()
        r = residual.flatten().double()
        each = d.penalty(residual).double().mean(1)
        tolerance = tolerance_of(each) if tolerance is None else tolerance
        JW = J * shares(each, tolerance).repeat_interleave(residual.shape[1])
        if d.weight is not None:
            JW *= d.weight(residual.double()).flatten()
        loss, gradient, curvature = robust(each, tolerance).mean().item(), JW @ r / len(r), JW @ J.T / len(r)
        if moments:
            gap = (moments_of(features) - moments_of(target)).flatten()
            K = derivatives(features, J.unflatten(1, features.shape).unbind()).flatten(1)
            share = moments / features.shape[1]
            loss += share * gap.square().sum().item()
            gradient, curvature = gradient + share * K @ gap, curvature + share * K @ K.T
        gradient, curvature = back @ gradient.cpu(), back @ curvature.cpu() @ back.T
        return Quadratic(loss, gradient, curvature, evaluations, tolerance, each.cpu())


@dataclass(frozen=True)
class _Moves:
    """How derivatives are taken: rows of a network call, and how far its input moves."""

    rows: int
    perturbation: float


def _felt_late(slopes: Arrays) -> tuple[Tensor, Arrays]:
    """Slopes of the arrays along directions that are felt as late as can be, and what turns gradients by those back.

    Step sizes of a grid sum to one, so each parameter of a grid moves every level; of their combinations all but one
    leave the first level alone, all but two the second. So parameters that an evaluation feels are eliminated, one an
    entry, from those left. All are scaled to move the arrays alike: one near its bound is not lost in others' rounding.

    Returns:
        Gradient by the directions -> by the parameters [p, p], and the slopes.
    """
    count = slopes[0].shape[-1]
    rows = torch.cat([_unit(array).reshape(-1, count) for array in slopes])
    scale = torch.where(rows.any(0), rows.norm(dim=0), 1.0)
    directions, left, unfelt = torch.eye(count, dtype=scale.dtype), torch.ones(count, dtype=torch.bool), []
    _, sigma_eval, start, weight = (array / scale for array in slopes)
    for n in range(len(sigma_eval)):
        rows = _unit(torch.cat([start[n : n + 1], weight[n], sigma_eval[n : n + 1]]))
        while (moved := rows @ directions * left).abs().max() > UNFELT:
            row, felt = divmod(int(moved.abs().argmax()), count)
            left[felt] = False
            directions -= torch.outer(directions[:, felt], moved[row] / moved[row, felt] * left)
        unfelt.append(left.clone())
    made = [array / scale @ directions for array in slopes]
    for n, none in enumerate(unfelt):
        for array in made[1:]:
            array[n, ..., none] = 0
    return scale[:, None] * torch.linalg.inv(directions).T, (made[0], made[1], made[2], made[3])


def _unit(rows: Tensor) -> Tensor:
    """Rows [..., p] of norm 1; those of norm 0 stay."""
    return torch.nn.functional.normalize(rows, dim=-1, eps=1e-300)


def _propagate(
    values: list[Tensor], slopes: Arrays, denoise: Denoise, x_T: Tensor, how: _Moves
) -> tuple[Tensor, list[Tensor | None], int]:
    """Last node, its derivative by every parameter (None where zero), network evaluations a sample."""
    _, sigma_eval, start, weight = values
    _, d_sigma_eval, d_start, d_weight = slopes
    count = d_start.shape[-1]
    x, outputs = x_T, []
    tangents: list[Tensor | None] = [None] * count
    d_outputs: list[list[Tensor | None]] = []
    evaluations = 0
    for n in range(len(sigma_eval)):
        D = denoise(x, sigma_eval[n].to(x.device))
        outputs.append(D)
        d_D = _directional(denoise, x, D, tangents, d_sigma_eval[n], sigma_eval[n], how)
        d_outputs.append(d_D)
        evaluations += 1 + sum(t is not None for t in d_D)
        tangents = [
            _node_tangent(
                d_start[n + 1, c], d_weight[n + 1, :, c], weight[n + 1], x_T, outputs, [o[c] for o in d_outputs]
            )
            for c in range(count)
        ]
        x = node(start[n + 1], weight[n + 1], x_T, outputs)
    return x, tangents, evaluations


def _node_tangent(
    d_start: Tensor,
    d_weight: Tensor,
    weight: Tensor,
    x_T: Tensor,
    outputs: list[Tensor],
    d_outputs: list[Tensor | None],
) -> Tensor | None:
    """Product rule on ``start * x_T + sum_j weight[j] * D[j]``."""
    terms = [d_weight[j] * D for j, D in enumerate(outputs) if d_weight[j] != 0]
    terms += [weight[j] * t for j, t in enumerate(d_outputs) if t is not None and weight[j] != 0]
    if d_start != 0:
        terms.append(d_start * x_T)
    return torch.stack(terms).sum(0) if terms else None


def _directional(
    f: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    value: Tensor,
    tangents: list[Tensor | None],
    d_sigma: Tensor | None,
    sigma: Tensor,
    how: _Moves,
) -> list[Tensor | None]:
    """Derivative of ``f(x, sigma)`` along every (tangent, d_sigma) pair that is not zero, by forward differences."""
    active = [c for c, t in enumerate(tangents) if t is not None or (d_sigma is not None and d_sigma[c] != 0)]
    made: list[Tensor | None] = [None] * len(tangents)
    size = len(x)
    together = max(how.rows // size, 1)
    for k in range(0, len(active), together):
        batch = active[k : k + together]
        moves = []
        for c in batch:
            t = tangents[c]
            ds = 0.0 if d_sigma is None else d_sigma[c].item()
            reach = max(t.square().mean().sqrt().item() if t is not None else 0.0, abs(ds), 1e-30)
            step = how.perturbation * sigma.item() / reach
            moves.append((step, x if t is None else x + step * t, sigma + step * ds))
        xs = torch.cat([m[1] for m in moves])
        levels = torch.stack([m[2] for m in moves]).repeat_interleave(size).to(x.device)
        for c, (step, *_), out in zip(batch, moves, f(xs, levels).split(size), strict=True):
            made[c] = (out - value) / step
    return made
