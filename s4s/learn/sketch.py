"""Gauss-Newton by reverse mode and random projections: a cost of a few passes, whatever the number of parameters.

Every sample gets its own copy of the solver's numbers. One pull ``v . features`` back through the sampler then gives
the derivative by each sample's numbers, and the chain rule through ``arrays`` makes it [B, p]. Pulled by the slope of
the loss it sums up to the gradient. By random signs ``v`` it is ``s = J^T v`` of each sample, and ``E[s s^T] = J^T J``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True)
class Point:
    """Parameters near which a loss is linearised, and the samples that it is of.

    Args:
        arrays, theta: parameters [p] -> arrays of a solver, differentiable, and the parameters.
        x_T, y: [B, ...] starting noises and teacher outputs.
        seeds: [B] of each sample's random signs; None: 0, 1, 2, ...
    """

    arrays: Callable[[Tensor], Arrays]
    theta: Tensor
    x_T: Tensor
    y: Tensor
    seeds: Sequence[int] | None = None


def sketch(
    points: Sequence[Point],
    denoise: Denoise,
    d: Distance,
    *,
    tolerance: float | None = float("inf"),
    moments: float = 0.0,
    whole: Whole | None = None,
    projections: int = 1,
) -> list[Quadratic]:
    """Linearise the mean robust distance of each point's samples to ``y``, and their moments, in its parameters.

    Args:
        points: of solvers with the same number of evaluations. The network sees all their samples in one batch.
        denoise: under the conditions of those samples, one point's after another's.
        d, tolerance, moments: as ``gauss_newton`` takes them.
        whole: the moments of the batch that the samples are a piece of; None where they are all of it.
        projections: pulls for the curvature; its error falls with the root of B times their number.
    """
    parts, sizes = [_Part(point) for point in points], [len(point.y) for point in points]
    x_T, y = torch.cat([point.x_T for point in points]), torch.cat([point.y for point in points])
    with torch.enable_grad():
        own = [torch.cat(copies) for copies in zip(*(part.own for part in parts), strict=True)]
        features = d.features(last_node(own, denoise, x_T))
        target = d.features(y).detach()
        for part, made, asked in zip(parts, features.split(sizes), target.split(sizes), strict=True):
            part.judge(made, asked, d, tolerance)
            if moments:
                part.weigh(made, asked, moments, whole)
        loss = torch.stack([part.loss for part in parts]).sum()
        (slope,) = torch.autograd.grad(loss / 2, features, retain_graph=True)
    for part, gradient in zip(parts, _pull(parts, features, slope, each=False), strict=True):
        part.gradient = gradient
    for k in range(projections):
        signs = torch.cat([_signs(part.seeds, k, features) * part.root.to(features) for part in parts])
        for part, s in zip(parts, _pull(parts, features, signs), strict=True):
            part.curvature += s.T @ s / (len(s) * features[0].numel() * projections)
    for k in range(MOMENT_PULLS if moments else 0):
        gaps = [part.gap for part in parts]
        seeds = [part.seeds[0] if whole is None else whole.seed for part in parts]
        ways = [_signs([2 * seed, 2 * seed + 1], -1 - k, gaps[0]) for seed in seeds]  # of means and of deviations
        (slope,) = torch.autograd.grad(gaps, features, ways, retain_graph=True)
        for part, row in zip(parts, _pull(parts, features, slope, each=False), strict=True):
            part.rows.append((moments / features.shape[1] / MOMENT_PULLS) ** 0.5 * row)
    pulls = 1 + projections + (MOMENT_PULLS if moments else 0)
    return [part.model(pulls, apart=whole is not None) for part in parts]


class _Part:
    """A point's part of the batch: its arrays, a copy of them for each sample, and what comes of those."""

    def __init__(self, point: Point) -> None:
        self.theta, self.seeds = point.theta.detach().requires_grad_(True), point.seeds or range(len(point.y))
        with torch.enable_grad():
            self.numbers = point.arrays(self.theta)[1:]
        self.own = [of_each_sample(array, point.x_T) for array in self.numbers]
        self.moving = [k for k, array in enumerate(self.numbers) if array.requires_grad]
        self.gradient, self.rows = torch.zeros_like(self.theta), list[Tensor]()
        self.curvature = torch.zeros(len(self.theta), len(self.theta), dtype=torch.float64)

    def judge(self, features: Tensor, target: Tensor, d: Distance, tolerance: float | None) -> None:
        """The loss, and by what a residual [B, F] is multiplied before its square counts in the curvature."""
        each = d.between(features, target).double()
        self.distances = each.detach()
        self.tolerance = tolerance_of(self.distances) if tolerance is None else tolerance
        self.loss = robust(each, self.tolerance).mean()
        self.root = shares(self.distances, self.tolerance).sqrt()[:, None]
        if d.weight is not None:
            self.root = self.root * d.weight((features - target).detach().double()).sqrt()

    def weigh(self, features: Tensor, target: Tensor, moments: float, whole: Whole | None) -> None:
        """With the gap of the moments [2, F] in the loss."""
        self.gap = moments_of(features) - moments_of(target) if whole is None else whole.about(features)
        self.loss = self.loss + moments * self.gap.square().sum(0).mean()

    def by_theta(self, slopes: Sequence[Tensor], each: bool) -> Tensor:
        """[B, p] float64 from slopes by every sample's numbers; or of their sum, [p]."""
        shared = [self.numbers[k] for k in self.moving]
        of_numbers = [slope.cpu().double() if each else slope.cpu().double().sum(0) for slope in slopes]
        return torch.autograd.grad(shared, self.theta, of_numbers, retain_graph=True, is_grads_batched=each)[0]

    def model(self, pulls: int, apart: bool) -> Quadratic:
        """Of the whole batch; where the samples are a piece of it, ``apart``, with the moments' rows not squared."""
        curvature, rows = self.curvature, torch.stack(self.rows) if self.rows else None
        if rows is not None and not apart:
            curvature, rows = curvature + rows.T @ rows, None
        cost = self.numbers[0].numel() * (1 + pulls)
        return Quadratic(self.loss.item(), self.gradient, curvature, cost, self.tolerance, self.distances.cpu(), rows)


def _pull(parts: Sequence[_Part], features: Tensor, v: Tensor, each: bool = True) -> list[Tensor]:
    """Of each part [B, p] float64: the derivative of each sample's ``v . features``; or of their sum, [p]."""
    copies = [part.own[k] for part in parts for k in part.moving]
    slopes = iter(torch.autograd.grad(features, copies, v, retain_graph=True, materialize_grads=True))
    return [part.by_theta([next(slopes) for _ in part.moving], each) for part in parts]


def of_each_sample(array: Tensor, x_T: Tensor) -> Tensor:
    """[B, ...] copies of an array, in at least float32, with a gradient where the parameters move the array."""
    dtype = torch.promote_types(x_T.dtype, torch.float32)
    copies = array.detach().to(x_T.device, dtype).expand(len(x_T), *array.shape).clone()
    return copies.requires_grad_(array.requires_grad)


def last_node(own: Sequence[Tensor], denoise: Denoise, x_T: Tensor) -> Tensor:
    """``s4s.sample`` with a solver of its own for every sample: arrays but the first, [B, ...] each."""
    sigma_eval, start, *weight = own
    both = [bool(column.any()) for column in weight[-1].detach().unbind(-1)] if len(weight) > 1 else None
    x, outputs = x_T, list[Tensor]()
    of = list[tuple[int, int]]()  # of every output its table and its column there

    def column(v: Tensor) -> Tensor:
        return v.reshape(-1, *[1] * (x_T.ndim - 1))

    for n in range(sigma_eval.shape[1]):
        made = ask(denoise, x.to(x_T.dtype), sigma_eval[:, n], None if both is None else both[n])
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


def differentiable(
    denoise: Denoise, x: Tensor, sigma: Tensor, levels: bool = True, what: str = "the network"
) -> tuple[str, int]:
    """Why reverse mode does not tell how an output moves with its input and, with ``levels``, its level.

    It cannot where the network's time is rounded or looked up in a table, or a part of it is cut from the graph. A
    difference of two calls is the measure, for each of the arguments. In half precision or tf32 a small difference
    drowns in rounding and a large one bends, so it counts if one of several sizes agrees.

    Args:
        x, sigma: [B, ...] states and [B] their levels.
        what: gives the output, in words.

    Returns:
        The reason, empty where it does, and the network evaluations a sample that it took.
    """
    draw = torch.Generator().manual_seed(0)
    way = torch.randn(x.shape, generator=draw).to(x) * sigma.reshape(-1, *[1] * (x.ndim - 1))
    taken, names = 0, ("input", "level")
    for k, move in enumerate((way, sigma)[: 1 + levels]):
        given = [x.detach().clone().requires_grad_(True), sigma.detach().clone().requires_grad_(k == 1)]
        agreed, blind = False, True
        for size in MOVES:
            try:
                D = denoise(*given)
                if not D.requires_grad:
                    return f"the output of {what} is cut from the graph", taken
                with torch.no_grad():
                    moved = denoise(*(z + size * move if z is given[k] else z for z in given)) - D
                (slope,) = torch.autograd.grad(D, given[k], moved, allow_unused=True)
            except torch.OutOfMemoryError:
                return f"the activations of {what} do not fit into memory", taken
            except (RuntimeError, Error) as error:
                text = (str(error).splitlines() or [type(error).__name__])[0]
                made = f"the weights of {what} were made under torch.inference_mode: load it outside of that"
                return made if text.startswith("Inference tensors cannot") else text, taken
            taken += 3
            told = 0.0 if slope is None else size * (slope * move).sum().item()
            square = moved.square().sum().item()
            blind = blind and square == told == 0
            if agreed := TRUSTED * square < told < square / TRUSTED:
                break
        if not (agreed or blind):
            return f"gradients of {what} by the {names[k]} are not what differences of its outputs say", taken
    return "", taken
