"""``s4s.fit_curve``: one fit for all numbers of evaluations, of the functions of a curve."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from s4s.curve import NUMBERS, Curve
from s4s.curve import curve as through
from s4s.errors import Error, Notice
from s4s.learn.distance import Distance
from s4s.learn.distances import distance as distance_named
from s4s.learn.frozen import Frozen
from s4s.learn.held_out import HeldOut
from s4s.learn.jacobian import PERTURBATION
from s4s.learn.kept import Kept, together
from s4s.learn.levels import row_levels
from s4s.learn.methods import TOGETHER
from s4s.learn.modes import with_derivatives
from s4s.learn.objective import Objective, Tried
from s4s.learn.robust import robust_mean
from s4s.learn.run import GAIN_OF_BOTH
from s4s.learn.schedule import ALONE, CURVE, GROUP, HEAT, JUDGED, LANES_OF_CURVE, LOOK, OWN_STEPS, POLISH, SWEEPS
from s4s.learn.seeded import generator
from s4s.learn.teacher import TeacherSet, require_noises, require_teacher
from s4s.learn.unfinished import State, Unfinished, below, content, identity_of
from s4s.learn.visits import TINY, Descent, advance, rows_at
from s4s.solver import Denoise
from s4s.values import require_title, whole, wholes


@dataclass(frozen=True)
class CurveResult:
    """What ``fit_curve`` found.

    Args:
        curve: the curve; ``curve.at(nfe)`` is a solver.
        losses: number of evaluations -> on held-out samples, ``val_loss``, the mean distance, ``robust``, the mean of
            its logarithmic form, ``start``, that of the start on the first of them, and whether it was ``fitted``.
        evaluations: of the network, by the fit; ``reported``: by what ``losses`` and ``notes`` say beside.
        seconds: wall time.
        history: of every sweep, each number's training loss.
        notes: what would have helped: more sweeps.
    """

    curve: Curve
    losses: Mapping[int, dict[str, Any]]
    evaluations: int
    reported: int
    seconds: float
    history: Sequence[dict[str, Any]] = field(default_factory=list)
    notes: Sequence[str] = field(default_factory=list)


@with_derivatives
def fit_curve(
    start: Curve | Callable[[int], Any],
    nfes: int | Iterable[int],
    denoise: Denoise | Callable[[Tensor], Denoise],
    teacher: TeacherSet,
    *,
    unseen: Iterable[int] = (),
    distance: str | Distance = "l2",
    seed: int = 0,
    sweeps: tuple[int, int] | None = None,
    validation: int | None = None,
    microbatch: int | None = None,
    perturbation: float = PERTURBATION,
    progress: str | None = None,
    resume: str | os.PathLike[str] | None = None,
) -> CurveResult:
    """Learn one curve for all numbers of evaluations; from a curve and with a single number, polish that one.

    Args:
        start: where to start: a curve, or number of evaluations -> a textbook solver, as ``s4s.curve`` takes it.
        nfes: numbers of evaluations to fit on, from 3 to 20. ``unseen``: more that are reported and never fitted.
        denoise, teacher, distance, validation, microbatch, perturbation, progress, resume: as ``s4s.fit`` takes them.
        seed: of the batches and their order.
        sweeps: times that small and then larger batches visit all numbers, whether the loss still falls or not; by
            default as many as a curve takes, or as a polish does.

    Raises:
        Error: numbers that no curve has, a start that is no curve, or that does not fit the teacher.
    """
    began = time.perf_counter()
    begin = start if isinstance(start, Curve) else through(start)
    numbers, others = _numbers(nfes, unseen)
    require_teacher(teacher)
    require_title(progress)
    held_out, seed = teacher.held_out(validation), whole(seed, "seed", None)
    require_noises("curve", begin.levels[NUMBERS[0]][0].item(), begin.noise, teacher)
    sweeps = _two(sweeps) or (POLISH if begin.theta.any() and len(numbers) == 1 else SWEEPS)
    network = Frozen(row_levels(denoise, teacher), microbatch, perturbation)
    told = begin.at(numbers[len(numbers) // 2]).sigma_eval
    tried = Tried(told[len(told) // 2].item(), True)
    objective = Objective(network, distance_named(distance), teacher, held_out, tried)
    first = _require_finite(_judged(begin, objective, numbers), begin)
    record: dict[str, Any] = {"method": TOGETHER, "start": begin.name, "fitted": numbers, "seed": seed,
                              "distance": objective.d.name, "teacher": dict(teacher.provenance),
                              "teacher_samples": len(objective.train), "source": "docs/curve.md"}  # fmt: skip
    identity = record | {"sweeps": list(sweeps), "unseen": others, "perturbation": perturbation}
    identity |= {"start_loss": sum(first.values()), **identity_of(teacher),
                 "curve": content(begin.theta, *begin.levels.values())}  # fmt: skip
    unfinished = Unfinished(resume, {} if resume is None else identity)
    lanes = 1 if begin.theta.any() or not sweeps[0] else LANES_OF_CURVE
    run = _Run([Descent.of(begin, 101 * seed + lane) for lane in range(lanes)], objective, numbers, unfinished)
    run(sweeps, progress)
    found, spent = run.better(begin, first), objective.evaluations
    losses = _report(found, objective, first, _require_finite(_judged(begin, objective, others), begin))
    notes = run.notes()
    record |= {"sweeps": list(sweeps), "derivatives": objective.derivatives, "notes": notes}
    record |= {"evaluations": spent, "val_loss": {str(nfe): loss["val_loss"] for nfe, loss in losses.items()}}
    name = f"{TOGETHER}({begin.textbook(NUMBERS[0]).name})"
    made = found.replace(name=name, provenance=record, noise=teacher.noise)
    unfinished.remove()
    for note in notes:
        warnings.warn(f"{progress}: {note}" if progress else note, Notice, stacklevel=3)
    seconds = time.perf_counter() - began + run.before
    return CurveResult(made, losses, spent, objective.evaluations - spent, seconds, run.history, notes)


@dataclass
class _Run:
    """The sweeps of one fit, from where its file left them: of several descents, then of the best of them.

    Args:
        kept: number of evaluations -> what is kept of its descent alone. ``passed``: steps since the last look.
        eve: after the race, the curve before the last sweep, or the last ``LOOK`` of a single number.
    """

    descents: list[Descent]
    objective: Objective
    numbers: list[int]
    unfinished: Unfinished
    kept: dict[int, Kept] = field(default_factory=dict)
    passed: int = 0
    sweep: int = 0
    before: float = 0.0
    eve: Curve | None = None
    history: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, sweeps: tuple[int, int], progress: str | None) -> None:
        """A heat of small batches for every descent, then the rest of them and larger ones for the best."""
        heat = min(HEAT, sweeps[0])
        race = heat * len(self.descents)
        self._restore()
        started, total = time.perf_counter(), race + sum(sweeps) - heat
        eve = max(total - (LOOK if len(self.numbers) == 1 else 1), race)
        for k in tqdm(range(self.sweep, total), desc=progress, initial=self.sweep, total=total,
                      disable=progress is None, mininterval=2):  # fmt: skip
            if k == race:
                self.descents = [self._best()]
            lane, sweep = divmod(k, heat) if k < race else (0, k - race + heat)
            descent, small = self.descents[lane], sweep < sweeps[0]
            if k == eve:
                self.eve = descent.reached
            self._turn(descent, sweep, small)
            if self.passed >= LOOK or (self.passed and k + 1 == total):
                self._look(descent)
            self.sweep = k + 1
            self.history.append({"lane": lane, "sweep": sweep, "evaluations": self.objective.evaluations,
                                 "loss": {str(nfe): v for nfe, v in sorted(descent.scale.items())}})  # fmt: skip
            self._save(time.perf_counter() - started)
        if len(self.numbers) > 1:
            self._each_alone(self._best())

    def _turn(self, descent: Descent, sweep: int, small: bool) -> None:
        """A sweep; of the larger batches of a single number every step is one that may be kept."""
        alone = len(self.numbers) == 1
        if alone and not small and not self.kept:
            self.kept = {nfe: Kept(HeldOut(self.objective, 0.0)) for nfe in self.numbers}
            self._look(descent)
        part = (ALONE if alone else CURVE)[not small]
        for group in _groups(self.numbers, descent.seed, sweep):
            rows = {nfe: part.rows if alone else rows_at(part.rows, nfe) for nfe in group}
            advance(descent, self.objective, rows, part.kept(descent.steps), small)
            for nfe, kept in self.kept.items():
                kept.glance(descent.reached, nfe)
            self.passed += alone and not small

    def _each_alone(self, descent: Descent) -> None:
        """For each number with values of its own a few batches of it alone, from where the sweeps ended."""
        for nfe in [nfe for nfe in self.numbers if nfe in descent.curve.own]:
            one = self.kept[nfe] = Kept(HeldOut(self.objective, 0.0))
            one.look(descent.reached, nfe)
            child = Descent.of(descent.reached, descent.seed)
            for _ in range(OWN_STEPS):
                advance(child, self.objective, {nfe: ALONE[1].rows}, ALONE[1].keep[1], False)
                one.glance(child.reached, nfe)
            one.look(child.reached, nfe)

    def _look(self, descent: Descent) -> None:
        self.passed = 0
        for nfe, kept in self.kept.items():
            kept.look(descent.reached, nfe)

    def _best(self) -> Descent:
        """The descent that is nearest to the teacher on held-out samples, each number counting the same."""
        if len(self.descents) == 1:
            return self.descents[0]
        apart = [_apart(_judged(descent.reached, self.objective, self.numbers)) for descent in self.descents]
        return self.descents[apart.index(min(apart))]

    def better(self, begin: Curve, first: Mapping[int, float]) -> Curve:
        """Where the fit ended, or with a ``Notice`` its start, if that is nearer to the teacher on held-out samples."""
        reached = together(self._best().reached, self.kept)
        if _apart(_judged(reached, self.objective, self.numbers)) < _apart(first):
            return reached
        warnings.warn(
            "the curve ended no nearer to the teacher than it began, and stays its start", Notice, stacklevel=3
        )
        return begin

    def notes(self) -> list[str]:
        """What would have helped: more sweeps."""
        if self.eve is None:
            return []
        then, now = (_apart(_judged(at, self.objective, self.numbers)) for at in (self.eve, self._best().reached))
        fall = math.exp((now - then) / len(self.numbers))
        if not fall < GAIN_OF_BOTH:
            return []
        return [f"the held-out loss still fell, at last by {1 - fall:.0%}, when the sweeps were spent; more would help"]

    def _save(self, seconds: float) -> None:
        states = [descent.state() for descent in self.descents]
        tensors = {f"{lane}.{key}": t for lane, (parts, _) in enumerate(states) for key, t in parts.items()}
        kept = [numbers | {"seed": descent.seed} for descent, (_, numbers) in zip(self.descents, states, strict=True)]
        more = {key: getattr(self, key) for key in ("sweep", "passed", "history")}
        more |= {"evaluations": self.objective.evaluations}
        looked = {nfe: each.state() for nfe, each in self.kept.items()}
        tensors |= {f"kept{nfe}.{key}": t for nfe, (parts, _) in looked.items() for key, t in parts.items()}
        tensors |= {} if self.eve is None else {"eve": self.eve.theta}
        more["kept"] = [[nfe, numbers] for nfe, (_, numbers) in looked.items()]
        self.unfinished.save(State(tensors, more | {"descents": kept, "seconds": self.before + seconds}))

    def _restore(self) -> None:
        state = self.unfinished.load()
        if state is not None:
            kept = {numbers["seed"]: numbers for numbers in state.numbers["descents"]}
            self.descents = [descent for descent in self.descents if descent.seed in kept]
            for lane, descent in enumerate(self.descents):
                descent.restore(below(f"{lane}.", state.tensors), kept[descent.seed])
            self.sweep, self.history, self.before = (state.numbers[key] for key in ("sweep", "history", "seconds"))
            self.passed = state.numbers["passed"]
            self.objective.evaluations = state.numbers["evaluations"]
            if "eve" in state.tensors:
                self.eve = self.descents[0].curve.replace(theta=state.tensors["eve"])
            for nfe, numbers in state.numbers["kept"]:
                self.kept[nfe] = Kept(HeldOut(self.objective, 0.0))
                self.kept[nfe].restore(below(f"kept{nfe}.", state.tensors), numbers)


def _groups(numbers: Sequence[int], seed: int, sweep: int) -> list[list[int]]:
    """The numbers in the order of a sweep, as many together as a step takes."""
    order = torch.randperm(len(numbers), generator=generator(seed * 1_000_003 + sweep))
    mixed = [numbers[k] for k in order.tolist()]
    return [mixed[k : k + GROUP] for k in range(0, len(mixed), GROUP)]


def _judged(curve: Curve, objective: Objective, numbers: Iterable[int]) -> dict[int, float]:
    """Robust loss of every number on the first held-out samples; infinite where they are not finite."""
    few = objective.held_out.at(slice(JUDGED))
    found = {nfe: robust_mean(objective.distances(curve.at(nfe), few)) for nfe in numbers}
    return {nfe: loss if math.isfinite(loss) else math.inf for nfe, loss in found.items()}


def _apart(losses: Mapping[int, float]) -> float:
    """How far a curve is from the teacher: each number's loss counts by its logarithm, so by what share it falls."""
    return sum(math.log(loss + TINY) for loss in losses.values())


def _require_finite(losses: dict[int, float], begin: Curve) -> dict[int, float]:
    """The losses of a start. A descent may leave where the network is finite, and then is not taken."""
    for nfe, loss in losses.items():
        if not math.isfinite(loss):
            raise Error(f"samples of {begin.name} at {nfe} evaluations are not finite: check the network")
    return losses


def _report(
    curve: Curve, objective: Objective, fitted: Mapping[int, float], others: Mapping[int, float]
) -> dict[int, dict[str, Any]]:
    """What the curve reaches on all held-out samples, beside where numbers that were fitted and others began."""
    found = {}
    for nfe, start in sorted([*fitted.items(), *others.items()]):
        distances = objective.distances(curve.at(nfe), objective.held_out)
        found[nfe] = {"val_loss": distances.mean().item(), "robust": robust_mean(distances), "start": start,
                      "fitted": nfe in fitted}  # fmt: skip
    return found


def _two(sweeps: Any) -> tuple[int, int] | None:
    """Times that small batches and larger ones visit all numbers, where they are given."""
    if sweeps is None:
        return None
    if not isinstance(sweeps, Sequence) or len(sweeps) != 2:
        raise Error(f"sweeps = {sweeps!r:.60} must be two whole numbers, such as (14, 1)")
    return whole(sweeps[0], "sweeps", 0), whole(sweeps[1], "sweeps", 0)


def _numbers(nfes: int | Iterable[int], unseen: Iterable[int]) -> tuple[list[int], list[int]]:
    numbers, others = wholes(nfes, "nfes"), wholes(unseen, "unseen", fewest=0)
    for nfe in [*numbers, *others]:
        if nfe not in NUMBERS:
            raise Error(f"a curve has solvers of {NUMBERS[0]} to {NUMBERS[-1]} evaluations, not of {nfe}")
    if {*numbers} & {*others}:
        raise Error(f"nfes = {numbers} must hold none of the unseen ones, {others}")
    return numbers, others
