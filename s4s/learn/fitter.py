"""The loops of a fit: phases, turns of a cycle of blocks, Levenberg-Marquardt steps, and the best on validation."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from s4s.errors import Error
from s4s.learn.distance import Distance
from s4s.learn.family import family
from s4s.learn.frozen import Batch, Frozen
from s4s.learn.jacobian import ROWS, gauss_newton, mean, robust, tolerance_of
from s4s.learn.methods import Method
from s4s.learn.moments import gap
from s4s.learn.relaxed import descend, pull
from s4s.learn.teacher import TeacherSet
from s4s.learn.unfinished import State, Unfinished
from s4s.solver import ARRAYS, Solver, sample
from s4s.values import whole

KEPT = ("start_loss", "evaluations", "damping", "history")  # of a fit's state, beside its tensors
DIVERGED = 10.0  # of the start's validation loss: beyond it, a fit goes back to the best and takes smaller steps


@dataclass
class _Best:
    theta: Tensor
    loss: float


_Features = tuple[Tensor, Tensor]
_At = tuple[int, Tensor, tuple[int, float]]
"""Next round of a phase, its parameters, and the last round that gained enough with its validation loss."""


class Fitter:
    """State of one fit: parameters, damping of each block, moved noises, counts. An iteration moves a block."""

    def __init__(
        self,
        start: Solver,
        specs: list[Method],
        options: dict[str, Any],
        network: Frozen,
        teacher: TeacherSet,
        held_out: int,
        d: Distance,
        radius: float,
        moments: float,
        seed: int,
    ) -> None:
        n = len(teacher) - held_out
        self.start, self.specs, self.options, self.network, self.d = start, specs, options, network, d
        x_T, c = teacher.x_T, teacher.condition
        self.x_T, self.y, self.val = x_T[:n], teacher.y[:n], (x_T[n:], teacher.y[n:], None if c is None else c[n:])
        self.condition = c
        self.moved = torch.zeros_like(self.x_T)
        self.reach, self.last_moments = radius * teacher.sigma_max, moments
        self.seed = seed
        self.evaluations = 0
        self.history: list[dict[str, float]] = []
        self.started = time.perf_counter()
        self.enter(0, start, math.inf)
        self.start_loss = self.loss(self.best.theta, self.val, moments=moments)
        if self.start_loss == math.inf:
            raise Error(f"samples of {start.name} are not finite, so there is nothing to fit: check the network")
        same = self.moments == moments
        self.best.loss = self.start_loss if same else self.loss(self.best.theta, self.val)

    def enter(self, phase: int, start: Solver, loss: float) -> None:
        """Begin a phase: its family around ``start``, whose validation loss is ``loss``. Moments count in the last."""
        self.phase, self.came_from, spec = phase, start, self.specs[phase]
        last = phase == len(self.specs) - 1
        self.moments = self.last_moments if last else 0.0
        self.family = family(start, spec.family, **(self.options if last else self.options | {"order": None}))
        self.cycle = self.family.turns(spec.cycle)
        self.damping = [1e-2] * len(self.cycle)
        self.best = _Best(self.family.theta, loss)

    @property
    def solver(self) -> Solver:
        """The best so far; a later phase still knows which textbook solver it started as."""
        return self.family.solver(self.best.theta).replace(name=self.start.name, provenance=self.start.provenance)

    def rows(self, index: Tensor, x_T: Tensor) -> Batch:
        """The samples of an iteration, starting from ``x_T``."""
        return x_T[index], self.y[index], None if self.condition is None else self.condition[index]

    def loss(self, theta: Tensor, batch: Batch, tolerance: float = math.inf, moments: float | None = None) -> float:
        """Mean robust distance of student and teacher, and what moments add; infinite where the solver breaks down."""
        moments = self.moments if moments is None else moments
        if not all(array.isfinite().all() for array in self.family.arrays(theta)):
            return math.inf
        pieces = self.features(theta, batch)
        kept = list(pieces) if moments else []
        value = robust(self.distances(kept or pieces), tolerance).mean().item()
        if moments:
            value += moments * gap(kept)
        return value if value == value else math.inf

    @torch.no_grad()
    def features(self, theta: Tensor, batch: Batch) -> Iterator[_Features]:
        """Features of student and teacher, in pieces of the batch."""
        self.evaluations += self.family.start.nfe * len(batch[0])
        solver = self.family.solver(theta)
        for x_T, y, c in self.network.parts(batch, 256):
            x = sample(solver, self.network.under(c), x_T, check=False)
            yield self.d.features(x), self.d.features(y)

    def distances(self, pieces: Iterable[_Features]) -> Tensor:
        """[B] float64."""
        return torch.cat([self.d.between(student, teacher).double() for student, teacher in pieces])

    def run(self, rounds: int, patience: int, progress: str | None, unfinished: Unfinished) -> None:
        """Go through the phases, from where the file left them."""
        rounds, patience = whole(rounds, "rounds"), whole(patience, "patience")
        state = unfinished.load()
        at = None if state is None else self.restored(state)
        while True:
            self.run_phase(rounds, patience, progress, unfinished, at or (0, self.best.theta, (0, self.best.loss)))
            if self.phase == len(self.specs) - 1:
                return
            self.go_on()
            at = None

    def go_on(self) -> None:
        """Enter the next phase from the best so far, or from the start where that is better once moments count."""
        self.enter(self.phase + 1, self.solver, self.best.loss)
        if self.moments:
            self.best.loss = self.loss(self.best.theta, self.val)
            if self.best.loss > self.start_loss:
                self.enter(self.phase, self.start, self.start_loss)

    def run_phase(self, rounds: int, patience: int, progress: str | None, unfinished: Unfinished, at: _At) -> None:
        """Go through the cycle until the rounds are spent or validation stops gaining."""
        first, theta, mark = at
        rounds = rounds if self.cycle else 0  # a single step has no grid
        bar = tqdm(range(first, rounds), desc=progress, initial=first, total=rounds, disable=progress is None,
                   mininterval=2)  # fmt: skip
        for k in bar:
            if k - 1 - mark[0] >= patience:
                break
            for turn in range(len(self.cycle)):
                index = self.batch(k * len(self.cycle) + turn, rounds * len(self.cycle))
                theta, loss = self.step(theta, turn, index)
                if self.reach:
                    self.relax(theta, index)
            val = self.loss(theta, self.val)
            if val < self.best.loss:
                self.best = _Best(theta, val)
            self.history.append({"round": len(self.history), "batch": len(index), "loss": loss, "val_loss": val,
                                 "evaluations": self.evaluations})  # fmt: skip
            if not val <= DIVERGED * self.start_loss:
                theta, self.damping = self.best.theta, [min(36 * damping, 1e6) for damping in self.damping]
            bar.set_postfix_str(f"validation {self.best.loss:.3g} of {self.start_loss:.3g}")
            if self.best.loss < 0.995 * mark[1]:
                mark = (k, self.best.loss)
            unfinished.save(self.state((k + 1, theta, mark)))

    @property
    def seconds(self) -> float:
        """Wall time so far, that of earlier runs of the same fit included."""
        return time.perf_counter() - self.started

    def state(self, at: _At) -> State:
        """What the iterations to come depend on."""
        k, theta, mark = at
        tensors = {"theta": theta, "best": self.best.theta} | ({"moved": self.moved} if self.reach else {})
        tensors |= {f"from.{key}": getattr(self.came_from, key) for key in ARRAYS}
        numbers = {"best_loss": self.best.loss, "seconds": self.seconds} | {key: getattr(self, key) for key in KEPT}
        return State(tensors, numbers | {"phase": self.phase, "k": k, "mark": mark})

    def restored(self, state: State) -> _At:
        """Inverse of ``state``."""
        tensors, numbers = state.tensors, state.numbers
        came_from = self.start.replace(**{key: tensors[f"from.{key}"] for key in ARRAYS})
        self.enter(numbers["phase"], came_from, math.inf)
        self.best = _Best(tensors["best"], numbers["best_loss"])
        self.moved = tensors["moved"].to(self.moved) if self.reach else self.moved
        self.started -= numbers["seconds"]
        for key in KEPT:
            setattr(self, key, numbers[key])
        return numbers["k"], tensors["theta"], tuple(numbers["mark"])

    def batch(self, k: int, iterations: int) -> Tensor:
        """Indices of iteration k: a growing slice of seeded permutations, so small early and large late."""
        size = batch_size(k, iterations, len(self.y), refines(self.phase, self.moments))
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + k)
        return torch.randperm(len(self.y), generator=generator)[:size]

    def step(self, theta: Tensor, turn: int, index: Tensor) -> tuple[Tensor, float]:
        """One Levenberg-Marquardt step on one block: raise the damping until the batch's loss falls."""
        batch = self.rows(index, self.x_T + self.moved)
        moves, arrays = self.cycle[turn], self.family.arrays
        here = theta.new_zeros(moves.shape[1])

        def of_block(part: Tensor) -> Any:
            return arrays(theta + moves @ part)

        net = self.network
        parts = net.parts(batch, len(index))
        tolerance = None if len(parts) == 1 else tolerance_of(self.distances(self.features(theta, batch)))
        g = mean([
            (len(y), gauss_newton(of_block, here, net.under(c), self.d, x_T, y,
                                  tolerance=tolerance, moments=self.moments, rows=net.microbatch or ROWS,
                                  perturbation=net.perturbation))
            for x_T, y, c in parts
        ])  # fmt: skip
        self.evaluations += g.evaluations * len(index)
        if not (g.gradient.isfinite().all() and g.curvature.isfinite().all()):
            return theta, g.loss
        scale = g.curvature.diagonal().clamp(min=1e-12 * g.curvature.diagonal().max().item() + 1e-30)
        for _ in range(8):
            damped = g.curvature + self.damping[turn] * torch.diag(scale)
            moved = theta - moves @ torch.linalg.solve_ex(damped, g.gradient)[0]
            loss = self.loss(moved, batch, g.tolerance)
            if loss < g.loss:
                self.damping[turn] = max(self.damping[turn] / 4, 1e-7)
                return moved, loss
            self.damping[turn] = min(self.damping[turn] * 6, 1e6)
        return theta, g.loss

    def relax(self, theta: Tensor, index: Tensor) -> None:
        """Move the batch's noises down the gradient, then back onto the ball of radius ``r sigma_T``."""
        solver = self.family.solver(theta)
        for part in index.split(self.network.microbatch or len(index)):
            x_T, y, c = self.rows(part, self.x_T)
            _, slope = pull(solver, self.network.with_gradient(c), self.d, x_T, y, self.moved[part])
            self.moved[part] = descend(self.moved[part], slope, self.reach)
        self.evaluations += 2 * solver.nfe * len(index)


def batch_size(k: int, iterations: int, train: int, refining: bool = False) -> int:
    """Samples of iteration ``k`` of a phase: few in its first third, while steps gain much; else, or refining, more."""
    return min(train, 64 if k < iterations // 3 and not refining else 256)


def refines(phase: int, moments: float) -> bool:
    """Whether a phase goes on near its end with moments, which 64 samples do not tell."""
    return phase > 0 and moments > 0
