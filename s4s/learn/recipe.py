"""``s4s.learn``: a denoiser in, learned solvers out. Chooses teacher, starts and sizes, and says what it does."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from s4s import classical
from s4s.bundle import Bundle
from s4s.errors import Error, Notice
from s4s.even import SAMPLES, Even, path_of
from s4s.grid import grid
from s4s.learn.distance import Distance
from s4s.learn.distances import distance as distance_named
from s4s.learn.effort import METHOD, Effort, costs, lines, pace, seconds, suited
from s4s.learn.fit import fit
from s4s.learn.meter import Meter
from s4s.learn.several import stretch
from s4s.learn.teacher import TeacherSet, generate, require_denoiser
from s4s.learn.work import Work, joined
from s4s.noise import MOST
from s4s.process import Process
from s4s.solver import Denoise, Solver, sample
from s4s.values import amount, doubles, require_device, require_dtype, require_function, whole, wholes
from s4s.version import __version__

TEXTBOOK: tuple[tuple[str, dict[str, Any]], ...] = (
    ("ddim", {}), ("dpmpp", {"order": 2}), ("dpmpp", {"order": 3}), ("unipc", {"order": 2}), ("unipc", {"order": 3}),
    ("unipc", {"order": 3, "variant": "bh1"}), ("ipndm", {"order": 3}),
)  # fmt: skip
GRIDS = ("logsnr", "edm", "uniform")
HELD_OUT = 0x68656C64  # keeps the noises of held-out samples apart from those that are learned from
NEAR = 1e-3  # relative; levels nearer to the last one are no step before it
RACED = 4  # starts of a fit
PIECES = 16  # of a teacher set on disk: a killed call makes the one it was at again

Rows = Callable[[range], Tensor]
Levels = Callable[[int], Sequence[float] | None]


@dataclass(frozen=True, eq=False)
class Learned:
    """What ``s4s.learn`` found.

    Args:
        bundle: number of evaluations -> the learned solver; ``bundle.save(path)`` writes one file.
        textbook: number of evaluations -> the textbook solver that came nearest to the teacher.
        teacher: held-out samples: nothing was chosen by them.
        outputs: ``textbook`` and ``learned`` -> number of evaluations -> what it makes of the held-out noises.
        record: JSON-able: what was learned from what, and ``held_out``, the distances: number of evaluations -> name ->
            root mean square difference to the teacher over the standard deviation of its samples.
    """

    bundle: Bundle
    textbook: Bundle
    teacher: TeacherSet
    outputs: Mapping[str, Mapping[int, Tensor]] = field(repr=False)
    record: Mapping[str, Any]


@dataclass(frozen=True)
class _Task:
    """What is learned on."""

    denoise: Any
    process: Process
    shape: tuple[int, ...]
    rows: Rows | None
    held_out: Rows | None
    dtype: torch.dtype
    device: str | torch.device
    seed: int

    def under(self, rows: Rows | None, indices: range) -> Denoise:
        """The network under the conditions of some samples."""
        return self.denoise if rows is None else self.denoise(rows(indices))


def learn(
    denoise: Denoise | Callable[[Tensor], Denoise], process: Process, shape: Sequence[int],
    nfe: int | Iterable[int] = (4, 6, 8), *,
    time: float | None = None, samples: int | None = None, seed: int = 0,
    distance: str | Mapping[str, float] | Distance = "l2", batch: int | None = None,
    condition: Rows | None = None, held_out: Rows | None = None, levels: Levels | None = None,
    dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu",
    resume: str | os.PathLike[str] | None = None, say: Callable[[str], None] | None = None, progress: bool = False,
) -> Learned:  # fmt: skip
    """Learn few-step solvers for a network: teacher, starts, fits and a comparison on held-out samples in one call.

    Args:
        denoise: the network as ``denoise(x, sigma) -> x_0``; with ``condition``, the function of rows that gives it.
        process: its noise process.
        shape: of one sample, without the batch.
        nfe: numbers of evaluations, one or several.
        time: seconds at hand; sizes are chosen so that the work fits, from two timed calls of the network.
        samples: of the teacher to learn from; by default 48, or what ``time`` allows.
        seed: of all noises and batches.
        distance: as in ``s4s.fit``.
        batch: rows of a network call; by default as many as pay, or as before where work goes on. It may change in
            between: fewer need less memory.
        condition, held_out: sample indices -> what the network is given with them, for the samples that are learned
            from, and for those that are held out, by default the same.
        levels: a function, number of evaluations -> noise levels at which the sampler at hand asks the network, tried
            as a grid as well; None where it has none.
        dtype, device: of the states.
        resume: a folder that holds the work: a killed call goes on when called again, to the same numbers.
        say: is told in lines what will be done and how long it takes.
        progress: whether to show a bar.

    Raises:
        Error: bad settings, outputs that are not finite or of another shape, too little time, a folder of other work.
    """
    task = _Task(denoise, process, _shape(denoise, process, shape), condition, held_out or condition, dtype, device,
                 whole(seed, "seed", 0, MOST))  # fmt: skip
    nfes = _checked(nfe, time, samples, batch)
    require_device(device)
    require_dtype(dtype)
    require_denoiser(denoise, condition)
    for key, given in (("held_out", held_out), ("say", say)):
        if given is not None:
            require_function(given, key, "model.condition" if key != "say" else "print")
    grids = {n: _grids(process, n, levels) for n in nfes}
    candidates = {n: _textbook(grids[n]) for n in nfes}
    counts = {n: len(_textbook(grids[n] | {"even": grids[n]["logsnr"]})) for n in nfes}  # even levels are not yet known
    found = pace(lambda at: task.under(condition, at), process, task.shape, dtype, device, batch)
    work, d = Work(resume), distance_named(distance)
    asked = {"version": __version__, "shape": task.shape, "levels": process.levels, "nfe": nfes, "time": time,
             "samples": samples, "seed": seed, "distance": d.name}  # fmt: skip
    planned = Effort(**work.plan(asked, found.means, lambda: suited(found, nfes, counts, time, samples).to_dict()))
    effort = planned if batch is None else replace(planned, batch=min(batch, planned.samples))  # also of begun work
    parts = costs(effort, nfes, counts, found.reverse)
    takes = seconds(parts, found)
    if say is not None:
        for line in lines(effort, counts, takes, f"{device}, {str(dtype).removeprefix('torch.')}"):
            say(line)
    meter = Meter({name: (takes[name], parts[name].rows) for name in parts}, progress)
    task = replace(task, denoise=meter.counted(denoise, condition is not None))
    try:
        return _Learning(task, effort, planned.batch, work, d, meter)(
            candidates, {"settings": asked, "effort": effort.to_dict()}
        )
    finally:
        meter.close()


@dataclass(frozen=True)
class _Learning:
    """The parts of the work, one after the other; what is done already is read from the folder.

    ``begun``: rows of a call when the work began, by which the teacher's samples are cut into files.
    """

    task: _Task
    effort: Effort
    begun: int
    work: Work
    d: Distance
    meter: Meter

    def __call__(self, candidates: Mapping[int, list[Solver]], record: dict[str, Any]) -> Learned:
        task, effort = self.task, self.effort
        strong = classical.solver("unipc", grid("logsnr", task.process, effort.teacher), order=3)
        self.meter.enter("teacher", done=self.work.has(f"textbook{min(candidates)}.json"))
        teacher = self.pairs(strong, "teacher", effort.samples, task.rows)
        held_out = self.pairs(strong, "held-out", effort.held_out, task.held_out)
        even = self.even(teacher)
        textbook: dict[int, Solver] = {}
        learned: dict[int, Solver] = {}
        for nfe, solvers in candidates.items():
            self.one([*_textbook({"even": even.levels(nfe)}), *solvers], teacher, textbook, learned)
        self.meter.enter("held-out")
        outputs = {name: {nfe: self.outputs(solver, held_out) for nfe, solver in found.items()}
                   for name, found in (("textbook", textbook), ("learned", learned))}  # fmt: skip
        record |= {"method": METHOD, "teacher": dict(teacher.provenance), "held_out": _distances(outputs, held_out)}
        record["notes"] = {str(nfe): solver.provenance["notes"] for nfe, solver in learned.items()}
        return Learned(Bundle(learned, record), Bundle(textbook), held_out, outputs, record)

    def pairs(self, strong: Solver, name: str, n: int, rows: Rows | None) -> TeacherSet:
        """The teacher's samples, piece by piece; those of held-out samples have noises of their own."""
        task, batch = self.task, self.effort.batch
        seed = task.seed if name == "teacher" else task.seed ^ HELD_OUT
        piece = self.begun * -(-n // (PIECES * self.begun))

        def made(first: int) -> Tensor:
            indices = range(first, min(first + piece, n))
            return generate(strong, lambda at: task.under(rows, at), indices, task.shape, seed, batch=batch,
                            dtype=task.dtype, device=task.device)  # fmt: skip

        y = joined([self.work.tensor(f"{name}{k}", lambda: made(k)) for k in range(0, n, piece)], task.device)  # noqa: B023
        given = None if rows is None else rows(range(n))
        record = {"name": strong.name, "nfe": strong.nfe} | dict(strong.provenance)
        return TeacherSet(y, seed, strong.sigma[0].item(), provenance=record, condition=given)

    def even(self, teacher: TeacherSet) -> Even:
        """How levels are spread on which the network's steps err alike, from paths of the teacher's first noises."""
        self.meter.enter("even levels", done=self.work.has("even.safetensors"))
        task, path = self.task, path_of(self.task.process)
        x_T = teacher.part(0, min(SAMPLES, len(teacher))).x_T
        cut = [range(len(x_T))[k : k + self.effort.batch] for k in range(0, len(x_T), self.effort.batch)]

        def share() -> Tensor:
            return Even.along(path, ((task.under(task.rows, at), x_T[at.start : at.stop]) for at in cut)).share

        return Even(path.sigma, self.work.tensor("even", share))

    def one(
        self, solvers: Sequence[Solver], teacher: TeacherSet, textbook: dict[int, Solver], learned: dict[int, Solver]
    ) -> None:
        """The best textbook solver of a number of evaluations, and what is learned from the best few."""
        nfe, few = solvers[0].nfe, teacher.part(0, self.effort.tried)
        rank: Callable[[], list[Solver]] = cache(lambda: self.nearest(solvers, few))
        self.meter.enter(f"textbook {nfe}", done=self.work.has(f"textbook{nfe}.json"))
        textbook[nfe] = self.work.solver(f"textbook{nfe}", lambda: rank()[0])
        self.meter.enter(f"fit {nfe}", done=self.work.has(f"learned{nfe}.json"))

        def learn() -> Solver:
            last = self.nearest(_on_the_grid_before(nfe, learned), few)[:1]
            return self.fitted([*rank()[: RACED - len(last)], *last], teacher)

        learned[nfe] = self.work.solver(f"learned{nfe}", learn)

    def nearest(self, solvers: Sequence[Solver], few: TeacherSet) -> list[Solver]:
        """The solvers in the order of their distance to the teacher."""
        losses = [self.d(self.outputs(solver, few), few.y).double().mean().nan_to_num(math.inf) for solver in solvers]
        return [solvers[k] for k in sorted(range(len(solvers)), key=lambda k: losses[k].item())]

    def fitted(self, starts: Sequence[Solver], teacher: TeacherSet) -> Solver:
        """What is learned from some starts. What would have helped is in its record, and no warning."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".* would help", category=Notice)
            return fit(starts, self.task.denoise, teacher, METHOD, distance=self.d, seed=self.task.seed,
                       rounds=self.effort.rounds, microbatch=self.effort.batch,
                       resume=self.work.path(f"fit{starts[0].nfe}.state")).solver  # fmt: skip

    @torch.no_grad()
    def outputs(self, solver: Solver, of: TeacherSet) -> Tensor:
        """What a solver makes of a teacher set's noises."""
        x_T, c, batch = of.x_T, of.condition, self.effort.batch
        made = []
        for first in range(0, len(of), batch):
            rows = slice(first, first + batch)
            denoise = self.task.denoise if c is None else self.task.denoise(c[rows])
            made.append(sample(solver, denoise, x_T[rows], check=False))
        return torch.cat(made)


def apart(x: Tensor, y: Tensor) -> float:
    """Root mean square difference of samples [n, ...], in standard deviations of the second."""
    return ((x.double() - y.double()).square().mean().sqrt() / y.double().std()).item()


def _distances(outputs: Mapping[str, Mapping[int, Tensor]], of: TeacherSet) -> dict[str, dict[str, float]]:
    nfes = next(iter(outputs.values()))
    return {str(nfe): {name: apart(made[nfe], of.y) for name, made in outputs.items()} for nfe in nfes}


def _shape(denoise: Any, process: Any, shape: Any) -> tuple[int, ...]:
    """The shape of a sample, once the network and its process are what they must be."""
    if not callable(denoise) or not isinstance(process, Process):
        raise Error("learn takes a denoiser, its process and the shape of a sample: "
                    "s4s.learn(process.denoiser(net), process, (3, 32, 32))")  # fmt: skip
    return tuple(whole(n, "shape") for n in (shape if isinstance(shape, Sequence) else [shape]))


def _checked(nfe: int | Iterable[int], time: float | None, samples: int | None, batch: int | None) -> list[int]:
    """The numbers of evaluations, rising."""
    nfes = wholes(nfe, "nfe")
    if time is not None and not amount(time, "time") > 0:
        raise Error(f"time = {time} must be a number of seconds above 0")
    if samples is not None:
        whole(samples, "samples", 8)
    if batch is not None:
        whole(batch, "batch")
    return nfes


def _grids(process: Process, nfe: int, levels: Levels | None) -> dict[str, Tensor]:
    """Grids by name; ``own`` has the levels of the sampler at hand between the ends of the process."""
    found = {name: grid(name, process, nfe) for name in GRIDS}
    low, high = process.levels
    if levels is not None and not callable(levels):
        raise Error(f"levels must be a function: number of evaluations -> noise levels, or None; got {levels!r:.60}")
    own = None if levels is None else levels(nfe)
    own = None if own is None else doubles(own, f"levels({nfe})").tolist()
    if own is None or len(own) != nfe or not all(low * (1 + NEAR) < level < high for level in own[1:]):
        return found
    return found | {"own": grid([high, *own[1:], low], process, nfe)}


def _textbook(grids: Mapping[str, Tensor]) -> list[Solver]:
    """Textbook solvers on grids; those of more order than steps are left out."""
    made = []
    for name, sigma in grids.items():
        for kind, options in TEXTBOOK:
            if options.get("order", 1) < len(sigma):
                found = classical.solver(kind, sigma, **options)
                made.append(found.replace(provenance=dict(found.provenance) | {"grid": name}))
    return made


def _on_the_grid_before(nfe: int, learned: Mapping[int, Solver]) -> list[Solver]:
    """Textbook solvers on the grid learned last, stretched."""
    if not learned or len(last := learned[max(learned)].sigma) < 3:
        return []
    return _textbook({"learned before": stretch(last, nfe)})
