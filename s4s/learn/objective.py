"""What a fit asks of its samples: how far a solver's outputs lie from the teacher's, and how that bends."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, Notice
from s4s.learn.distance import Distance
from s4s.learn.frozen import Frozen
from s4s.learn.jacobian import ROWS, gauss_newton
from s4s.learn.memory import SavedBytes
from s4s.learn.moments import Whole
from s4s.learn.quadratic import Quadratic, mean
from s4s.learn.relaxed import descend, pull
from s4s.learn.robust import tolerance_of
from s4s.learn.sketch import Point, differentiable, last_node, of_each_sample, sketch
from s4s.learn.teacher import TeacherSet
from s4s.solver import ARRAYS, Arrays, Denoise, Solver, sample, solver_of

CALL = 256  # rows of a network call, at the most
ROOM = 2**30  # bytes that the activations of one network call may take
TRIED = 4  # samples that tell whether reverse mode works


@dataclass(frozen=True)
class Samples:
    """Some of a teacher's samples: noises, outputs, conditions, and what the network says of every noise itself.

    The first level of a solver is never learned, so that first output never changes, unless the noises move.
    """

    x_T: Tensor
    y: Tensor
    condition: Tensor | None
    first: Tensor | None

    def __len__(self) -> int:
        return len(self.y)

    def at(self, index: Tensor | slice) -> Samples:
        rows = (None if part is None else part[index] for part in (self.condition, self.first))
        return Samples(self.x_T[index], self.y[index], *rows)

    def moved(self, shift: Tensor) -> Samples:
        """From other noises, whose first outputs are not known."""
        return Samples(self.x_T + shift, self.y, self.condition, None)

    @classmethod
    def joined(cls, several: Sequence[Samples]) -> Samples:
        """One's after another's."""

        def known(parts: Sequence[Tensor | None]) -> Tensor | None:
            there = [part for part in parts if part is not None]
            return torch.cat(there) if len(there) == len(parts) else None

        x_T, y = torch.cat([each.x_T for each in several]), torch.cat([each.y for each in several])
        return cls(x_T, y, known([each.condition for each in several]), known([each.first for each in several]))

    def parts(self, most: int) -> Iterator[Samples]:
        """In pieces of at most ``most`` samples."""
        return (self.at(slice(k, k + most)) for k in range(0, len(self), most))


@dataclass(frozen=True)
class Batch:
    """What is linearised: the parameters [p] of a descent and the arrays they make, on samples, and a seed of signs."""

    arrays: Callable[[Tensor], Arrays]
    theta: Tensor
    samples: Samples
    seed: int

    @property
    def solver(self) -> Solver:
        return solver_of(self.arrays(self.theta))

    @property
    def nfe(self) -> int:
        return len(self.arrays(self.theta)[1])

    def apart(self) -> Batch:
        """The same; where outputs are told apart, without the known first one, which is of both mixed."""
        if len(self.arrays(self.theta)) <= len(ARRAYS):
            return self
        return replace(self, samples=self.samples.moved(torch.zeros_like(self.samples.x_T)))

    def point(self, first: int, part: Samples) -> Point:
        """For the samples from ``first`` on."""
        seeds = [self.seed * CALL + first + i for i in range(len(part))]
        return Point(self.arrays, self.theta, part.x_T, part.y, seeds)


@dataclass(frozen=True)
class Tried:
    """Where a network's derivatives are tried: at what level, and whether levels move, so that theirs count too."""

    level: float
    moves: bool


class Objective:
    """The mean robust distance, and the moments' gap, of a solver's outputs; counts what its answers cost."""

    def __init__(self, network: Frozen, d: Distance, teacher: TeacherSet, held_out: int, tried: Tried) -> None:
        self.network, self.d, self.evaluations, self.sigma_max = network, d, 0, teacher.sigma_max
        if (bad := ~teacher.y.flatten(1).isfinite().all(1)).any():
            raise Error(f"{int(bad.sum())} of the teacher's {len(bad)} samples are not finite, the first is number "
                        f"{int(bad.int().argmax())}: check the network, or take another teacher")  # fmt: skip
        every = Samples(teacher.x_T, teacher.y, teacher.condition, None)
        first = torch.cat([self._first(part) for part in every.parts(self._rows(CALL))])
        every = replace(every, first=first)
        self.train, self.held_out = every.at(slice(len(every) - held_out)), every.at(slice(len(every) - held_out, None))
        self.reverse = self._differentiable(tried)
        self.gradient_rows = self._gradient_rows() if self.reverse else CALL

    @property
    def derivatives(self) -> str:
        """How they are taken, in words."""
        return "reverse mode" if self.reverse else "forward differences"

    def _rows(self, most: int) -> int:
        return min(most, self.network.microbatch or most)

    @torch.no_grad()
    def _first(self, part: Samples) -> Tensor:
        self.evaluations += len(part)
        level = torch.tensor(self.sigma_max, dtype=torch.float64, device=part.x_T.device)
        return self.network.under(part.condition)(part.x_T, level)

    @torch.no_grad()
    def features(self, solver: Solver, samples: Samples) -> Iterator[tuple[Tensor, Tensor]]:
        """Features of student and teacher, in pieces."""
        for part in samples.parts(self._rows(CALL)):
            first = part.first if solver.null is None else None  # which is that of both outputs mixed
            self.evaluations += (solver.nfe - (first is not None)) * len(part)
            x = sample(solver, after(first, self.network.under(part.condition)), part.x_T, check=False)
            yield self.d.features(x), self.d.features(part.y)

    def distances(self, solver: Solver, samples: Samples) -> Tensor:
        """[B] float64."""
        return self.distances_and_gap(solver, samples, 0.0)[0]

    def distances_and_gap(self, solver: Solver, samples: Samples, moments: float) -> tuple[Tensor, float]:
        """Distances [B], infinite where the solver breaks down, and ``moments`` times the gap of the moments."""
        distances, whole = self._looked(solver, samples, moments > 0)
        return distances, 0.0 if whole is None else moments * whole.gap

    def _looked(self, solver: Solver, samples: Samples, moments: bool, seed: int = 0) -> tuple[Tensor, Whole | None]:
        """Distances [B], infinite where the solver breaks down, and with ``moments`` those of the whole batch."""
        found, kept = [], []
        for pair in self.features(solver, samples):
            found.append(self.d.between(*pair))
            kept += [pair] if moments else []
        return _finite(torch.cat(found)), Whole.of(kept, seed) if moments else None

    def distances_of_each(self, solvers: Sequence[Solver], samples: Sequence[Samples]) -> list[Tensor]:
        """``distances`` of every solver on samples of its own; where they are few, the network sees them together."""
        half = any(part.x_T.element_size() < 4 for part in samples)  # a solver for each sample makes float32 of it
        if half or len(solvers) < 2 or sum(map(len, samples)) > self._rows(CALL):
            return [self.distances(*pair) for pair in zip(solvers, samples, strict=True)]
        joined = Samples.joined(samples)
        first = joined.first if solvers[0].null is None else None
        self.evaluations += (solvers[0].nfe - (first is not None)) * len(joined)
        every = zip(*([of_each_sample(array, part.x_T) for array in [*solver.arrays.values()][1:]]
                      for solver, part in zip(solvers, samples, strict=True)), strict=True)  # fmt: skip
        with torch.no_grad():
            denoise = after(first, self.network.under(joined.condition))
            found = self.d(last_node([torch.cat(copies) for copies in every], denoise, joined.x_T), joined.y)
        return [*_finite(found).split([len(part) for part in samples])]

    def linearise(self, batches: Sequence[Batch], moments: float = 0.0) -> list[Quadratic]:
        """The model of half the loss near each batch's parameters; the network sees few samples all together."""
        batches = [batch.apart() for batch in batches]
        joined = Samples.joined([batch.samples for batch in batches])
        if self.reverse and len(joined) <= self.rows(len(joined)):
            denoise = after(joined.first, self.network.with_gradient(joined.condition))
            points = [batch.point(0, batch.samples) for batch in batches]
            models = sketch(points, denoise, self.d, tolerance=None, moments=moments)
        else:
            models = [self._in_pieces(batch, moments) for batch in batches]
        for model, batch in zip(models, batches, strict=True):
            passes = model.evaluations // batch.nfe if self.reverse else 1  # that a known output is spared
            self.evaluations += (model.evaluations - (joined.first is not None) * passes) * len(batch.samples)
        return models

    def _in_pieces(self, batch: Batch, moments: float) -> Quadratic:
        """By reverse mode, or by differences where that cannot go."""
        samples, parts, tolerance, whole = batch.samples, list[Quadratic](), None, None
        rows = self.rows(len(samples))
        if rows < len(samples):
            distances, whole = self._looked(batch.solver, samples, moments > 0, batch.seed * CALL)
            tolerance = tolerance_of(distances)
        for k, part in enumerate(samples.parts(rows)):
            shared: dict[str, Any] = {"tolerance": tolerance, "moments": moments}
            if self.reverse:
                denoise = after(part.first, self.network.with_gradient(part.condition))
                parts += sketch([batch.point(k * rows, part)], denoise, self.d, whole=whole, **shared)
            else:
                shared |= {"rows": self.network.microbatch or ROWS, "perturbation": self.network.perturbation}
                denoise = after(part.first, self.network.under(part.condition))
                parts.append(gauss_newton(batch.arrays, batch.theta, denoise, self.d, part.x_T, part.y, **shared))
        return mean(parts)

    def _differentiable(self, tried: Tried) -> bool:
        """Whether reverse mode can differentiate the network, tried on a few noised outputs at one level, and the
        features of the distance, tried on the outputs themselves."""
        reason = self._refuses(tried.level, tried.moves)
        if reason:
            text = f"derivatives are differences of network calls, which takes more of them than reverse mode: {reason}"
            warnings.warn(text, Notice, stacklevel=2)
        return not reason

    def _refuses(self, level: float, moves: bool) -> str:
        """Why it cannot; empty where it can."""
        few = self.train.at(slice(TRIED))
        sigma = torch.full((len(few),), level).to(few.y)
        x = few.y + few.x_T * (level / self.sigma_max)
        reason, taken = differentiable(self.network.with_gradient(few.condition), x, sigma, moves)
        self.evaluations += taken * len(few)
        return reason or differentiable(lambda y, _: self.d.features(y), few.y, sigma, False, "the distance")[0]

    def require_slopes(self, level: float) -> None:
        """Raise unless noises can move down a gradient by the states, whatever that by levels is."""
        if not self.reverse and (reason := self._refuses(level, False)):
            raise Error(f"radius > 0 needs gradients by the noises, and {reason}; leave the radius out")

    def _gradient_rows(self) -> int:
        """Rows of a call with a gradient whose activations take at most ``ROOM``; the same on every machine."""
        one = self.train.at(slice(1))
        self.evaluations += 1
        x, sigma = one.x_T.clone().requires_grad_(True), torch.full((1,), self.sigma_max).to(one.y)
        with SavedBytes() as saved, torch.enable_grad():
            self.network.under(one.condition)(x, sigma)
        return max(1, min(CALL, ROOM // max(saved.peak, 1)))

    def rows(self, batch: int) -> int:
        """Samples of one piece of a batch that is differentiated."""
        return min(batch, self.network.microbatch or self.gradient_rows)

    def relax(self, solver: Solver, samples: Samples, shift: Tensor, reach: float) -> Tensor:
        """The samples' shifts [B, ...], further down their slope and on the ball of radius ``reach``."""
        found, done = [], 0
        self.evaluations += 2 * solver.nfe * len(samples)
        for part in samples.parts(self.rows(len(samples))):
            here = shift[done : done + len(part)]
            _, slope = pull(solver, self.network.with_gradient(part.condition), self.d, part.x_T, part.y, here)
            found.append(descend(here, slope, reach))
            done += len(part)
        return torch.cat(found)


def _finite(distances: Tensor) -> Tensor:
    """Distances [B] float64, infinite where a solver broke down."""
    distances = distances.double().cpu()
    return torch.where(distances.isfinite(), distances, math.inf)


def after(first: Tensor | None, denoise: Denoise) -> Denoise:
    """The denoiser as one run of a solver sees it, with the answer to its first call known."""
    if first is None:
        return denoise
    calls = count()
    return lambda x, sigma: first if next(calls) == 0 else denoise(x, sigma)
