"""Fitting: learn a few-step solver that imitates a teacher.

``min_phi E d(Psi_phi(x'), Psi_*(x_T))`` with ``||x' - x_T|| <= r sigma_T`` (S4S, relaxed objective; r = 0 is the plain
one). A method is a family and a cycle of parameter blocks: S4S-Alt alternates weights and grid, joint moves both.
Some methods go on from the result of another: S4S-Alt from LD3's, where textbook weights have followed the grid.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

from s4s.errors import Error, Notice
from s4s.guidance import split_guidance
from s4s.learn.distance import Distance
from s4s.learn.distances import distance as distance_named
from s4s.learn.family import family as family_around
from s4s.learn.family import is_textbook
from s4s.learn.frozen import Frozen
from s4s.learn.jacobian import PERTURBATION
from s4s.learn.levels import row_levels, under
from s4s.learn.methods import APART, Method, moves_levels, phases
from s4s.learn.modes import with_derivatives
from s4s.learn.objective import Objective, Tried
from s4s.learn.run import Plan, Run
from s4s.learn.skip import budget, fewer_calls
from s4s.learn.starts import even_levels, known, label, races_others
from s4s.learn.stream import Terms
from s4s.learn.teacher import TeacherSet, require_noises, require_teacher
from s4s.learn.unfinished import Unfinished, content, identity_of
from s4s.noise import Start
from s4s.solver import Denoise, Solver
from s4s.values import amount, require_title, whole


@dataclass(frozen=True)
class FitResult:
    """A fitted solver and what it took.

    Args:
        solver: the best on validation; never worse there than the start in both the mean and the robust mean.
        val_loss, start_loss: the objective on the validation part, of the result and of the start: the mean distance,
            and with ``moments`` their weighted gap. Of a few samples that end elsewhere the first may be the larger.
        evaluations: network-forward-equivalents spent (input-backward counts 1), validation included.
        seconds: wall time.
        history: one record a round: round, and of its last step batch and loss on it and the learned weights, as the
            family has them; val_loss of the round's likely best, and evaluations.
        raced: one record a stream and heat of the race: start, lane, loss, batches, evaluations.
        notes: what would have helped: more rounds, more samples.
    """

    solver: Solver
    val_loss: float
    start_loss: float
    evaluations: int
    seconds: float
    history: list[dict[str, Any]] = field(default_factory=list)
    raced: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@with_derivatives
def fit(
    solver: Solver | Sequence[Solver], denoise: Denoise | Callable[[Tensor], Denoise], teacher: TeacherSet,
    method: str = "s4s-alt", *,
    distance: str | Mapping[str, float] | Distance = "l2", radius: float = 0.0, moments: float = 0.0,
    family: str | None = None, order: int | None = None, convert: str | None = None, decoupled: bool = True,
    seed: int = 0, rounds: int = 12, patience: int = 2, validation: int | None = None,
    microbatch: int | None = None, perturbation: float = PERTURBATION, checkpoint: bool | None = None,
    calls: int | None = None, progress: str | None = None, resume: str | os.PathLike[str] | None = None,
) -> FitResult:  # fmt: skip
    """Learn a few-step solver that imitates a teacher, starting from ``solver``.

    Args:
        solver: where to start; the result keeps its number of evaluations. A method that may move the grid races a
            textbook start beside others on known grids, unless the starts to race are said: a list of one or more,
            for example with a host's own levels. S4S, and any method from a learned solver, races streams from its
            start alone.
        denoise: the frozen network; for a teacher set with conditions, the function of their rows that gives it. One
            that takes a single level a call is called level by level.
        teacher: noises and teacher outputs; the last ``validation`` (default a quarter, at most 512) are held out.
        method: a key of ``METHODS``.
        distance: a name, a sum ``{name: weight}`` or a ``Distance``; see ``s4s.distance``.
        radius: r of the relaxed objective, in units of sigma_T; 0 is the plain objective.
        moments: weight of the gap between the batch's moments, see ``s4s.learn.moments``; the paper has none. Moved
            noises, and a phase before the last, follow the distance alone.
        family: of solvers, see ``s4s.learn.family``: ``lms`` (default), ``pc``, ``ss``, ``guided`` or ``full``, for
            S4S, S4S-Alt and joint; ``cfg`` or ``columns`` for those that learn guidance. The others have their own.
        order: outputs a step may use (``lms``, the predictor of ``pc``) or stages of a step (``ss``); by default what
            the start uses.
        convert: with decoupled times, where a noise prediction becomes data, ``eval`` or ``grid``.
        decoupled: whether the levels that the network is told may leave the grid's.
        seed: of the batches.
        rounds: of a few larger batches each, after the race, at the most.
        patience: stop after this many rounds without a gain of 3% of the robust loss on the held-out samples, or of 4%
            where weights and grid both move.
        microbatch: rows of a network call, for networks that leave no memory for whole batches.
        perturbation: of the network's input in derivatives, where they are differences, see ``gauss_newton``.
        checkpoint: whether the backward pass computes each evaluation again instead of keeping its activations; None
            does so for those that do not fit into half of the free memory.
        calls: network calls a sample that ``s4s-cfg-skip`` leaves; by default at most three quarters of two an
            evaluation.
        resume: a file that holds the fit while it runs. A killed fit goes on from it when called again, to the result
            of an unbroken one; a file of another fit is ignored, with a ``Notice``. ``microbatch`` may change.

    Raises:
        Error: unknown method, family or distance, or a start, levels or settings that do not fit each other.
    """
    started = time.perf_counter()
    given = _starts(solver)
    require_teacher(teacher)
    require_title(progress)
    seed, rounds, patience = whole(seed, "seed", None), whole(rounds, "rounds"), whole(patience, "patience")
    _check(given, teacher, radius, moments, microbatch)
    specs = phases(method, all(map(is_textbook, given)), family, decoupled)
    held_out = teacher.held_out(validation)
    order = None if order is None else whole(order, "order")
    options: dict[str, Any] = {"order": order, "convert": convert or _said_by_all(given)}
    apart, kept = specs[-1].family in APART, _budget(specs[-1], given[0].nfe, calls)
    options |= {"guidance": _guidance(denoise, teacher, method)} if apart else {}
    for start in given:
        family_around(start, specs[-1].family, **options)  # raises now, not after a race
    network = Frozen(row_levels(denoise, teacher), microbatch, perturbation, checkpoint)
    tried = Tried(given[0].sigma_eval[given[0].nfe // 2].item(), any(map(moves_levels, specs)))
    objective = Objective(network, distance_named(distance), teacher, held_out, tried)
    if apart and not objective.reverse:
        raise Error(f"method {method!r} needs a network that reverse mode can differentiate, and this one it cannot")
    if radius:
        objective.require_slopes(tried.level)
    found = _start_distances(objective, given[0], moments)
    others: list[Solver] = []
    if isinstance(solver, Solver) and races_others(solver, specs):
        others = known(solver, specs, options, even_levels(solver, objective))
    plan = Plan(specs, options, given, others, Terms(moments, radius * teacher.sigma_max), seed)
    settings = {"radius": radius, "moments": moments, "seed": seed} | ({} if kept is None else {"calls": kept})
    settings |= {} if decoupled else {"decoupled": False}
    record = _record(plan, objective, teacher, {"method": method} | settings)
    record |= {"start_loss": found[0].mean().item() + found[1]}
    numbers = content(*(array for start in given for array in start.arrays.values()))
    identity = record | {"rounds": rounds, "patience": patience, "perturbation": perturbation,
                         "starts": list(map(label, plan.starts)), "start_numbers": numbers}  # fmt: skip
    unfinished = Unfinished(resume, {} if resume is None else identity | identity_of(teacher))
    run = Run(plan, objective, given[0], found, unfinished, started)
    run(rounds, patience, progress)
    if kept is not None:
        run = _left_out(run, kept)
        run(rounds, patience, progress and f"{progress} {kept} calls")
    result = _result(run, record, teacher.noise)
    for file in (run.unfinished, unfinished):
        file.remove()
    for note in result.notes:
        warnings.warn(f"{progress}: {note}" if progress else note, Notice, stacklevel=3)
    return result


def _starts(solver: Any) -> list[Solver]:
    """The starts that were given, one or several."""
    given = [*solver] if isinstance(solver, Iterable) and not isinstance(solver, Mapping | str) else [solver]
    for start in given:
        if not isinstance(start, Solver):
            raise Error(f"a fit starts at a solver or a list of them, not at a {type(start).__name__}: make one with "
                        "s4s.solver, or read one with s4s.load_solver")  # fmt: skip
    return given


def _said_by_all(given: Sequence[Solver]) -> str | None:
    """Where a noise prediction becomes data; None where the starts differ in it, and each keeps its own."""
    said = {start.provenance.get("convert", "eval") for start in given}
    return said.pop() if len(said) == 1 else None


def _check(given: Sequence[Solver], teacher: TeacherSet, radius: Any, moments: Any, microbatch: Any) -> None:
    """Raise where a start does not fit the teacher, or settings are no amounts or do not fit each other."""
    if not given or len({solver.nfe for solver in given}) > 1:
        raise Error("a fit needs one start or more, all with the same number of evaluations")
    amount(radius, "radius")
    if amount(moments, "moments") and microbatch is not None:
        raise Error("moments are of whole batches: leave out microbatch, or moments")
    for solver in given:
        require_noises("solver", solver.sigma[0].item(), solver.noise, teacher)


def _guidance(denoise: Any, teacher: TeacherSet, method: str) -> float:
    """The constant scale at which a denoiser mixes the two outputs that it tells apart."""
    first = under(denoise, teacher.part(0, 1).condition)
    if not hasattr(first, "columns"):
        raise Error(f"method {method!r} learns guidance, and the denoiser has none that it tells apart: load a model "
                    "with a guidance other than 1, or make a denoiser of two with s4s.guided")  # fmt: skip
    return float(first.guidance)


def _budget(spec: Method, nfe: int, calls: int | None) -> int | None:
    """Calls to be left; None for a method that leaves none out."""
    if not spec.skips and calls is not None:
        raise Error("calls is the budget of s4s-cfg-skip alone; leave it out")
    return budget(nfe, calls) if spec.skips else None


def _left_out(run: Run, calls: int) -> Run:
    """A further fit, of its last phase, from what a fit has found with all but so many calls left out, several ways."""
    plan, scaled = run.plan, run.plan.phases[-1].family == "cfg"
    whole_one = split_guidance(run.best, plan.options["guidance"])
    named = {"name": run.winner.name, "provenance": run.winner.provenance}
    ways = [way.replace(**named) for way in fewer_calls(whole_one, calls, run.objective, scaled)]
    after = replace(plan, phases=plan.phases[-1:], given=ways, known=[], seed=plan.seed + 1)
    found = run.objective.distances_and_gap(ways[0], run.objective.held_out, plan.terms.moments)
    made = Run(after, run.objective, ways[0], found, run.unfinished.beside("calls"), run.started)
    made.start_loss, made.raced, made.history = run.start_loss, [*run.raced], [*run.history]
    return made


def _start_distances(objective: Objective, start: Solver, moments: float) -> tuple[Tensor, float]:
    """Of a start on the held-out samples, and what moments add; all must be numbers."""
    found = objective.distances_and_gap(start, objective.held_out, moments)
    if not math.isfinite(found[0].mean() + found[1]):
        raise Error(f"samples of {start.name} are not finite, so there is nothing to fit: check the network")
    return found


def _record(plan: Plan, objective: Objective, teacher: TeacherSet, settings: dict[str, Any]) -> dict[str, Any]:
    """What is fitted: the provenance of the solver to come, and the identity of an unfinished fit."""
    spec = plan.phases[-1]
    data = {"teacher": dict(teacher.provenance), "teacher_samples": len(objective.train)}
    return (
        settings | {"family": spec.family, "distance": objective.d.name} | data | {"source": spec.source} | plan.options
    )


def _result(run: Run, record: dict[str, Any], noise: Start | None) -> FitResult:
    """The best solver, with what it took in its record."""
    start, objective = run.winner, run.objective
    notes = run.notes()
    found: dict[str, Any] = {"val_loss": run.best_loss, "start_loss": run.start_loss,
                             "evaluations": objective.evaluations}  # fmt: skip
    record |= {"start": start.name, "start_provenance": dict(start.provenance), "raced": run.raced, "notes": notes,
               "derivatives": objective.derivatives} | found  # fmt: skip
    record |= {"convert": record["convert"] or start.provenance.get("convert", "eval")}
    fitted = run.best.replace(name=f"{record['method']}({start.name})", provenance=record, noise=noise)
    return FitResult(fitted.detach(), **found, seconds=run.seconds, history=run.history, raced=run.raced, notes=notes)
