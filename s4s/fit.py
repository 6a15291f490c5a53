"""Fitting: what each method learns, the objective, and the loops that lower it.

``min_phi E d(Psi_phi(x'), Psi_*(x_T))`` with ``||x' - x_T|| <= r sigma_T`` (S4S, relaxed objective; r = 0 is the plain
one). A method is a family and a cycle of parameter blocks: S4S-Alt alternates weights and grid, joint moves both.
Some methods go on from the result of another: S4S-Alt from LD3's, where textbook weights have followed the grid.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from s4s import __version__
from s4s.distance import Distance, distance
from s4s.errors import Error
from s4s.family import family, is_textbook
from s4s.frozen import Batch, Frozen
from s4s.jacobian import PERTURBATION, ROWS, gauss_newton, mean, robust
from s4s.methods import Method, phases
from s4s.moments import gap
from s4s.relaxed import descend, pull
from s4s.solver import ARRAYS, Denoise, Solver, sample
from s4s.teacher import TeacherSet
from s4s.unfinished import State, Unfinished, content

KEPT = ("start_loss", "evaluations", "damping", "history")  # of a fit's state, beside its tensors
DIVERGED = 10.0  # of the start's validation loss: beyond it, a fit goes back to the best and takes smaller steps
TOLERANCE = 4.0  # of the median distance: where a sample begins to count less, see ``robust``


@dataclass(frozen=True)
class FitResult:
    """A fitted solver and what it took.

    Args:
        solver: the best on validation; never worse there than the start.
        val_loss, start_loss: the objective on the validation part, of the result and of the start: the mean distance,
            and with ``moments`` their weighted gap.
        evaluations: network-forward-equivalents spent (input-backward counts 1), validation included.
        seconds: wall time.
        history: one record an iteration: iteration, batch, loss (on the batch), val_loss, evaluations; losses are
            without ``moments`` before the last phase.
    """

    solver: Solver
    val_loss: float
    start_loss: float
    evaluations: int
    seconds: float
    history: list[dict[str, float]] = field(default_factory=list)


def fit(
    solver: Solver,
    denoise: Denoise | Callable[[Tensor], Denoise],
    teacher: TeacherSet,
    method: str = "s4s-alt",
    *,
    distance: str | Distance = "l2",
    radius: float = 0.0,
    moments: float = 0.0,
    family: str | None = None,
    order: int | None = None,
    convert: str | None = None,
    seed: int = 0,
    rounds: int = 12,
    patience: int = 5,
    validation: int | None = None,
    microbatch: int | None = None,
    perturbation: float = PERTURBATION,
    checkpoint: bool | None = None,
    progress: str | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> FitResult:
    """Learn a few-step solver that imitates a teacher, starting from ``solver``.

    Args:
        solver: where to start; the result keeps its number of evaluations.
        denoise: the frozen network; for a teacher set with conditions, the function of their rows that gives it.
        teacher: noises and teacher outputs; the last ``validation`` (default a quarter, at most 512) are held out.
        method: a key of ``METHODS``.
        distance: a name or a ``Distance``; see ``s4s.distance``.
        radius: r of the relaxed objective, in units of sigma_T; 0 is the plain objective.
        moments: weight of the gap between the batch's moments, student to teacher, over the features of the distance;
            the paper has none. Moved noises, and a phase before the last, follow the distance alone. See
            ``s4s.moments``.
        family: of solvers: ``lms``, ``pc``, ``ss``, ``guided`` or ``full``, for S4S, S4S-Alt and joint; the others have
            their own. By default ``lms``. See ``s4s.family``.
        order: outputs a step may use (``lms``, the predictor of ``pc``) or stages of a step (``ss``); by default what
            the start uses.
        convert: with decoupled times, where a noise prediction becomes data, ``eval`` or ``grid``; see ``s4s.family``.
        seed: of the batches.
        rounds: times each phase's cycle of blocks is gone through, one Levenberg-Marquardt step a block.
        patience: stop after this many rounds without a gain of half a percent on validation.
        microbatch: rows of a network call, for networks that leave no memory for whole batches.
        perturbation: of the network's input in derivatives, see ``gauss_newton``.
        checkpoint: with radius > 0, whether the backward pass computes each evaluation again instead of keeping its
            activations; None does so for those that do not fit into half of the free memory.
        resume: a file that holds the fit while it runs. A killed fit goes on from it when called again, to the result
            of an unbroken one; a file of another fit is ignored, with a ``Notice``. ``microbatch`` may change.

    Raises:
        Error: unknown method, family or distance, shapes or levels that do not fit the teacher, a start the family
            cannot hold.
    """
    specs = phases(method, is_textbook(solver), family)
    for name, value in {"radius": radius, "moments": moments}.items():
        if not value >= 0:
            raise Error(f"{name} = {value} must not be negative")
    if moments and microbatch is not None:
        raise Error("moments are of whole batches: leave out microbatch, or moments")
    if solver.sigma[0].item() != teacher.sigma_max:
        raise Error(
            f"the solver starts at level {solver.sigma[0].item():g}, the teacher's noises at {teacher.sigma_max:g}"
        )
    options: dict[str, Any] = {"order": order, "convert": convert or solver.provenance.get("convert", "eval")}
    _family(solver, specs[-1].family, **options)  # raises now, not after a first phase
    held_out = min(len(teacher) // 4, 512) if validation is None else validation
    if not 1 <= held_out < len(teacher):
        raise Error(f"validation = {held_out} must leave some of the teacher's {len(teacher)} samples to train on")
    if microbatch is not None and microbatch < 1:
        raise Error(f"microbatch = {microbatch} must be at least 1")
    network = Frozen(denoise, microbatch, perturbation, checkpoint)
    fitter = _Fitter(solver, specs, options, network, teacher, held_out, _distance(distance), radius, moments, seed)
    record = {"method": method, "start": solver.name, "start_provenance": dict(solver.provenance),
              "family": specs[-1].family, "distance": fitter.d.name, "radius": radius, "moments": moments, "seed": seed,
              "teacher": dict(teacher.provenance), "teacher_samples": len(teacher) - held_out,
              "start_loss": fitter.start_loss, "source": specs[-1].source} | options  # fmt: skip
    settings = {"rounds": rounds, "patience": patience, "perturbation": perturbation}
    unfinished = Unfinished(resume, {} if resume is None else record | settings | _contents(solver, teacher))
    fitter.run(rounds, patience, progress, unfinished)
    found: dict[str, Any] = {"val_loss": fitter.best.loss, "start_loss": fitter.start_loss,
                             "evaluations": fitter.evaluations}  # fmt: skip
    fitted = fitter.solver.replace(name=f"{method}({solver.name})", provenance=record | found)
    unfinished.remove()
    return FitResult(fitted.detach(), **found, seconds=fitter.seconds, history=fitter.history)


def _contents(solver: Solver, teacher: TeacherSet) -> dict[str, Any]:
    """What makes a fit another one although its settings are the same."""
    numbers = content(*(getattr(solver, key) for key in ARRAYS))
    samples = [teacher.seed, teacher.first, content(teacher.y, teacher.condition)]
    return {"version": __version__, "start_numbers": numbers, "teacher_set": samples}


_distance, _family = distance, family


@dataclass
class _Best:
    theta: Tensor
    loss: float


_At = tuple[int, Tensor, tuple[int, float]]
"""Next iteration of a phase, its parameters, and the last one that gained enough with its validation loss."""


class _Fitter:
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
        pairs = self.pairs(theta, batch)
        value = robust(self.distances(pairs), tolerance).mean().item()
        if moments:
            value += moments * gap([(self.d.features(x), self.d.features(y)) for x, y in pairs])
        return value if value == value else math.inf

    @torch.no_grad()
    def pairs(self, theta: Tensor, batch: Batch) -> list[tuple[Tensor, Tensor]]:
        """Samples of student and teacher, in pieces of the batch."""
        self.evaluations += self.family.start.nfe * len(batch[0])
        solver = self.family.solver(theta)
        return [
            (sample(solver, self.network.under(c), x_T, check=False), y) for x_T, y, c in self.network.parts(batch, 256)
        ]

    @torch.no_grad()
    def distances(self, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
        """[B] float64."""
        return torch.cat([self.d(x, y).double() for x, y in pairs])

    def run(self, rounds: int, patience: int, progress: str | None, unfinished: Unfinished) -> None:
        """Go through the phases, from where the file left them."""
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
        iterations = rounds * len(self.cycle)
        bar = tqdm(range(first, iterations), desc=progress, initial=first, total=iterations, disable=progress is None,
                   mininterval=2)  # fmt: skip
        for k in bar:
            if k - 1 - mark[0] >= patience * len(self.cycle):
                break
            index = self.batch(k, iterations)
            turn = k % len(self.cycle)
            theta, loss = self.step(theta, turn, index)
            if self.reach:
                self.relax(theta, index)
            val = self.loss(theta, self.val)
            if val < self.best.loss:
                self.best = _Best(theta, val)
            self.history.append({"iteration": len(self.history), "batch": len(index), "loss": loss, "val_loss": val,
                                 "evaluations": self.evaluations})  # fmt: skip
            if not val <= DIVERGED * self.start_loss:
                theta, self.damping[turn] = self.best.theta, min(36 * self.damping[turn], 1e6)
            bar.set_postfix_str(f"validation {self.best.loss:.3g} of {self.start_loss:.3g}")
            if self.best.loss < 0.995 * mark[1]:
                mark = (k, self.best.loss)
            if (k + 1) % len(self.cycle) == 0:
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

        net, tolerance = self.network, TOLERANCE * self.distances(self.pairs(theta, batch)).median().item()
        tolerance = tolerance if 0 < tolerance < math.inf else math.inf
        g = mean([
            (len(y), gauss_newton(of_block, here, net.under(c), self.d, x_T, y,
                                  tolerance=tolerance, moments=self.moments, rows=net.microbatch or ROWS,
                                  perturbation=net.perturbation))
            for x_T, y, c in net.parts(batch, len(index))
        ])  # fmt: skip
        self.evaluations += g.evaluations * len(index)
        if not (g.gradient.isfinite().all() and g.curvature.isfinite().all()):
            return theta, g.loss
        scale = g.curvature.diagonal().clamp(min=1e-12 * g.curvature.diagonal().max().item() + 1e-30)
        for _ in range(8):
            damped = g.curvature + self.damping[turn] * torch.diag(scale)
            moved = theta - moves @ torch.linalg.solve_ex(damped, g.gradient)[0]
            loss = self.loss(moved, batch, tolerance)
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
