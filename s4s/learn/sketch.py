"""Gauss-Newton by reverse mode and random projections: a cost of a few passes, whatever the number of parameters.

Every sample gets its own copy of the solver's numbers. One pull ``v . features`` back through the sampler then gives
the derivative by each sample's numbers, and the chain rule through ``arrays`` makes it [B, p]. Pulled by the slope of
the loss it sums up to the gradient. By random signs ``v`` it is ``s = J^T v`` of each sample, and ``E[s s^T] = J^T J``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.learn.distance import Distance
from s4s.learn.moments import Whole
from s4s.learn.moments import moments as moments_of
from s4s.learn.quadratic import Quadratic
from s4s.learn.robust import robust, shares, tolerance_of
from s4s.learn.seeded import generator
from s4s.solver import Arrays, Denoise, ask

MOMENT_PULLS = 4  # projections of the curvature of a batch's moments, each of rank one
TRUSTED = 0.7  # of a difference of two network calls that its derivative must explain
MOVES = (1e-3, 1e-4, 1e-2, 1e-1)  # of the level: how far the two calls are apart, the next if the one before says no


def sketch(
    arrays: Callable[[Tensor], Arrays],
    theta: Tensor,
    denoise: Denoise,
    d: Distance,
    x_T: Tensor,
    y: Tensor,
    *,
    seeds: Sequence[int] | None = None,
    tolerance: float | None = float("inf"),
    moments: float = 0.0,
    whole: Whole | None = None,
    projections: int = 1,
) -> Quadratic:
    """Linearise the mean robust distance of the samples to ``y``, and their batch's moments, in the parameters.

    Args:
        arrays, theta, denoise, d, x_T, y, tolerance, moments: as ``gauss_newton`` takes them.
        seeds: [B] of each sample's random signs.
        whole: the moments of the batch that the samples are a piece of; None where they are all of it.
        projections: pulls for the curvature; its error falls with the root of B times their number.
    """
    theta = theta.detach().requires_grad_(True)
    with torch.enable_grad():
        numbers = arrays(theta)[1:]
    own = [_of_each_sample(array, x_T) for array in numbers]
    moving = [k for k, array in enumerate(numbers) if array.requires_grad]
    with torch.enable_grad():
        features = d.features(_last_node(own, denoise, x_T))
        target = d.features(y).detach()
        each = d.between(features, target).double()
        tolerance = tolerance_of(each.detach()) if tolerance is None else tolerance
        loss = robust(each, tolerance).mean()
        gap = None
        if moments:
            gap = moments_of(features) - moments_of(target) if whole is None else whole.about(features)
        loss = loss if gap is None else loss + moments * gap.square().sum(0).mean()
        (slope,) = torch.autograd.grad(loss / 2, features, retain_graph=True)

    def pull(v: Tensor, each: bool = True) -> Tensor:
        """[B, p] float64: the derivative of each sample's ``v . features``; or of their sum, [p]."""
        mine, shared = ([array[k] for k in moving] for array in (own, numbers))
        slopes = torch.autograd.grad(features, mine, v, retain_graph=True, materialize_grads=True)
        of_numbers = [slope.cpu().double() for slope in slopes]
        of_numbers = of_numbers if each else [slope.sum(0) for slope in of_numbers]
        return torch.autograd.grad(shared, theta, of_numbers, retain_graph=True, is_grads_batched=each)[0]

    root = shares(each.detach(), tolerance).sqrt()[:, None]
    if d.weight is not None:
        root = root * d.weight((features - target).detach().double()).sqrt()
    gradient, curvature = pull(slope, each=False), theta.new_zeros(len(theta), len(theta))
    for k in range(projections):
        s = pull(_signs(seeds or range(len(x_T)), k, features) * root.to(features))
        curvature += s.T @ s / features.numel() / projections
    pulls, rows = 1 + projections, None
    if gap is not None:
        first = whole.seed if whole is not None else (seeds or [0])[0]
        signs = [_signs([first] * 2, -1 - k, gap) for k in range(MOMENT_PULLS)]
        slopes = [torch.autograd.grad(gap, features, v, retain_graph=True)[0] for v in signs]
        rows = (moments / features.shape[1] / MOMENT_PULLS) ** 0.5 * torch.stack([pull(v, each=False) for v in slopes])
        pulls += MOMENT_PULLS
    if rows is not None and whole is None:
        curvature, rows = curvature + rows.T @ rows, None
    evaluations, distances = numbers[0].numel() * (1 + pulls), each.detach().cpu()
    return Quadratic(loss.item(), gradient, curvature, evaluations, tolerance, distances, rows)


def _of_each_sample(array: Tensor, x_T: Tensor) -> Tensor:
    """[B, ...] copies of an array, in at least float32, with a gradient where the parameters move the array."""
    dtype = torch.promote_types(x_T.dtype, torch.float32)
    copies = array.detach().to(x_T.device, dtype).expand(len(x_T), *array.shape).clone()
    return copies.requires_grad_(array.requires_grad)


def _last_node(own: Sequence[Tensor], denoise: Denoise, x_T: Tensor) -> Tensor:
    """``s4s.sample`` with a solver of its own for every sample."""
    sigma_eval, start, *weight = own
    both = [bool(column.any()) for column in weight[-1][0].detach().unbind(-1)] if len(weight) > 1 else None
    x, outputs = x_T, list[Tensor]()
    of = list[tuple[int, int]]()  # of every output its table and its column there

    def column(v: Tensor) -> Tensor:
        return v.reshape(-1, *[1] * (x_T.ndim - 1))

    for n in range(sigma_eval.shape[1]):
        made = ask(denoise, x, sigma_eval[:, n], None if both is None else both[n])
        outputs, of = outputs + made, of + [(k, n) for k in range(len(made))]
        x = column(start[:, n + 1]) * x_T
        for (k, j), D in zip(of, outputs, strict=True):
            x = x + column(weight[k][:, n + 1, j]) * D
    return x


def _signs(seeds: Sequence[int], k: int, like: Tensor) -> Tensor:
    """Random signs in the shape of ``like``; those of a row hang on its seed and on ``k`` alone."""
    rows = []
    for seed in seeds:
        draw = generator(seed * 64 + k + 8)
        rows.append(torch.randint(0, 2, like.shape[1:], generator=draw, dtype=torch.int8) * 2 - 1)
    return torch.stack(rows).to(like)


def differentiable(denoise: Denoise, x: Tensor, sigma: Tensor, levels: bool = True) -> tuple[str, int]:
    """Why reverse mode does not tell how the network's output moves with its input and, with ``levels``, its level.

    It cannot where the network's time is rounded or looked up in a table, or a part of it is cut from the graph. A
    difference of two calls is the measure, for each of the arguments. In half precision or tf32 a small difference
    drowns in rounding and a large one bends, so it counts if one of several sizes agrees.

    Args:
        x, sigma: [B, ...] states and [B] their levels.

    Returns:
        The reason, empty where it does, and the network evaluations a sample that it took.
    """
    draw = torch.Generator().manual_seed(0)
    way = torch.randn(x.shape, generator=draw).to(x) * sigma.reshape(-1, *[1] * (x.ndim - 1))
    taken, names = 0, ("input", "level")
    for k, move in enumerate((way, sigma)[: 1 + levels]):
        given = [x.detach().clone(), sigma.detach().clone()]
        given[k].requires_grad_(True)
        agreed = False
        for size in MOVES:
            try:
                D = denoise(*given)
                if not D.requires_grad:
                    return "the network's output is cut from the graph", taken
                with torch.no_grad():
                    moved = denoise(*(z + size * move if z is given[k] else z for z in given)) - D
                (slope,) = torch.autograd.grad(D, given[k], moved, allow_unused=True)
            except torch.OutOfMemoryError:
                return "its activations do not fit into memory", taken
            except (RuntimeError, Error) as error:
                return (str(error).splitlines() or [type(error).__name__])[0], taken
            taken += 3
            told = 0.0 if slope is None else size * (slope * move).sum().item()
            square = moved.square().sum().item()
            if agreed := TRUSTED * square < told < square / TRUSTED:
                break
        if not agreed:
            return f"gradients by the {names[k]} are not what differences of outputs say", taken
    return "", taken
