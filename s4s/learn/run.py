"""The course of a fit: a race of short streams, then the best of them on larger batches, and the best of that kept."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from s4s.learn.family import Family, family
from s4s.learn.held_out import HeldOut
from s4s.learn.methods import Method, moves_grid, moves_weights
from s4s.learn.objective import Objective
from s4s.learn.quadratic import Memory
from s4s.learn.robust import robust_mean
from s4s.learn.schedule import GRID, HEATS, HOME, JUDGED, LEFT, MOMENTS, NOTED, OPENING, RACE, ROUND, Steps
from s4s.learn.starts import at_home, label, lanes
from s4s.learn.stream import MOST, Stream, Terms, advance, solver_at
from s4s.learn.unfinished import State, Unfinished, below
from s4s.solver import Solver

DIVERGED = 10.0  # of the start's held-out loss: beyond it a stream goes back to the best and takes smaller steps
CAUTION = 36.0  # by which damping rises then
GAP, SURE = 1.2, 3.0  # of held-out to training distance, and standard errors: beyond both more samples would help
GAIN, GAIN_OF_BOTH = 0.97, 0.96  # of the robust held-out loss that counted last: what the next must reach, and where
# weights and grid both move, which gain most in their first rounds
KEPT = ("lanes", "racing", "heat", "base", "round", "mark", "guess", "ahead", "raced", "history")
"""What a file keeps of a run, beside its tensors and its streams."""


def weights(stream: Stream) -> list[float]:
    """What a stream has learned besides levels, in six digits: a fit's course in a few kB."""
    block = stream.family.blocks["weight"]
    return [float(f"{value:.6g}") for value in stream.theta[block].tolist()]


@dataclass(frozen=True)
class Plan:
    """What is learned and from where: phases, options of the last one's family, starts given and known, what is
    minimised, and the seed."""

    phases: Sequence[Method]
    options: dict[str, Any]
    given: Sequence[Solver]
    known: Sequence[Solver]
    terms: Terms
    seed: int

    def stream(self, start: Solver, phase: int, lane: int) -> Stream:
        """A new stream of a phase."""
        spec, last = self.phases[phase], phase == len(self.phases) - 1
        made: Family = family(start, spec.family, **(self.options if last else self.options | {"order": None}))
        return Stream.of(made, made.turns(spec.cycle), self.seed * 101 + 10 * phase + lane)

    @property
    def rounds(self) -> Steps:
        """The batches of a round."""
        alone = ROUND if self.phases[-1].family != "classical" else GRID
        return MOMENTS if self.terms.moments else alone

    @property
    def gain(self) -> float:
        """Share of the held-out loss that a round must get below to count."""
        return GAIN_OF_BOTH if moves_grid(self.phases[-1]) and moves_weights(self.phases[-1]) else GAIN

    @property
    def starts(self) -> list[Solver]:
        return [*self.given, *self.known]


@dataclass
class Run:
    """State of one fit.

    Args:
        lanes: index of the start of every stream that is still in the race; ``racing``: whether it goes on.
        start, found: the solver to begin at, its distances [n] on held-out samples and what moments add.
        started: when the fit began, on ``time.perf_counter``; earlier for one that goes on.
        best, best_loss: the best solver there so far; ``ahead``: whether it is no longer the start; ``safe``: its
            parameters in the last stream.
        heat, base, round: heats run; batches of the last stream before its rounds; rounds run.
        mark: the round that last gained enough, and its robust loss.
        likely, guess: of a round's parameters, those whose loss is guessed lowest, and that guess.
    """

    plan: Plan
    objective: Objective
    start: Solver
    found: tuple[Tensor, float]
    unfinished: Unfinished
    started: float
    streams: dict[int, Stream] = field(default_factory=dict)
    lanes: dict[int, int] = field(default_factory=dict)
    safe: Tensor = field(default_factory=lambda: torch.empty(0))
    racing: bool = True
    heat: int = 0
    round: int = 0
    mark: tuple[int, float] = (0, math.inf)
    base: int = 0
    likely: Tensor = field(default_factory=lambda: torch.empty(0))
    guess: float = math.inf
    ahead: bool = False
    raced: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.best, self.start_loss, self.best_loss = self.start, self.begun, self.begun
        self.held_out = HeldOut(self.objective, self.plan.terms.moments)

    def __call__(self, rounds: int, patience: int, progress: str | None) -> None:
        """Run the whole course, from where the file left it."""
        state = self.unfinished.load()
        if state is None:
            self.begin()
        else:
            self.restore(state)
        if self.racing:
            self.race(progress)
            self.go_on()
        self.refine(rounds, patience, progress)

    def begin(self) -> None:
        """A stream for every start in the race."""
        chosen = lanes(self.plan.given, self.plan.known, self.objective, moves_grid(self.plan.phases[0]))
        self.lanes = dict(enumerate(chosen))
        self.streams = {lane: self.plan.stream(self.plan.starts[k], 0, lane) for lane, k in self.lanes.items()}
        self.save()

    def race(self, progress: str | None) -> None:
        """Let the streams run; after each heat those with the larger held-out loss drop out, and the last goes on."""
        few = self.objective.held_out.at(slice(JUDGED))
        heats = HEATS[bool(self.plan.known)]
        for heat in range(self.heat, len(heats)):
            self.small(heats[heat], progress)
            losses = {lane: robust_mean(self.objective.distances(s.solver, few)) for lane, s in self.streams.items()}
            self.raced += [{"start": label(self.plan.starts[self.lanes[lane]]), "lane": lane, "loss": loss,
                            "batches": self.streams[lane].steps, "evaluations": self.objective.evaluations}
                           for lane, loss in losses.items()]  # fmt: skip
            others = {lane for lane, k in self.lanes.items() if not at_home(self.plan.starts[k], self.plan.given)}
            left = sorted(losses, key=lambda lane: losses[lane] / (HOME if lane in others else 1))[: LEFT[heat]]
            self.streams = {lane: self.streams[lane] for lane in left}
            self.heat = heat + 1
            self.save()
        self.small(RACE.count, progress)

    def small(self, count: int, progress: str | None) -> None:
        """Small batches for every stream that still runs, up to so many."""
        running = [stream for stream in self.streams.values() if stream.turns]
        first = min((stream.steps for stream in running), default=count)
        for k in tqdm(range(first, count), progress and f"{progress} race", disable=progress is None):
            at = [stream for stream in running if stream.steps == k]  # in an older file one may be ahead
            advance(at, self.objective, RACE.rows, RACE.kept(k), Terms())
            self.save()

    def go_on(self) -> None:
        """The last phase's stream, from the winner; from the start where moments make that better, or none got away."""
        ((lane, stream),) = self.streams.items()
        last, plan = len(self.plan.phases) - 1, self.plan
        self.base = OPENING.count if last else stream.steps
        stream = plan.stream(stream.solver, last, lane) if last else stream
        loss, near = self.held_out.look(stream.solver)
        if loss > (1.0 if plan.terms.moments else DIVERGED) * self.start_loss:
            stream, self.base, self.lanes[lane] = plan.stream(self.start, last, lane), 0, 0
        elif self.better(loss, near):
            self.best, self.best_loss, self.ahead = stream.solver.detach(), loss, True
        self.streams, self.safe = {lane: stream}, stream.theta
        self.racing, self.mark = False, (0, near)
        self.save()

    def refine(self, rounds: int, patience: int, progress: str | None) -> None:
        """Larger batches until the held-out loss stops falling, or the rounds are spent."""
        (stream,) = self.streams.values()
        rounds = rounds if stream.turns else 0  # a single step has no grid
        bar = tqdm(range(self.round, rounds), desc=progress, initial=self.round, total=rounds,
                   disable=progress is None, mininterval=2)  # fmt: skip
        for k in bar:
            if k - self.mark[0] >= patience:
                break
            self.turn(stream, k)
            (batch, loss), likely = stream.last, solver_at(stream.family, self.likely)
            val, near = self.held_out.look(likely)
            self.judge(stream, likely, val, near)
            if near < self.plan.gain * self.mark[1]:
                self.mark = (k + 1, near)
            self.history.append({"round": len(self.history), "batch": batch, "loss": loss, "val_loss": val,
                                 "evaluations": self.objective.evaluations, "weights": weights(stream)})  # fmt: skip
            self.round = k + 1
            self.save()

    def turn(self, stream: Stream, k: int) -> None:
        """The batches of round ``k``; before the first, small ones where the race moved other parameters."""
        while stream.steps < self.base:
            advance([stream], self.objective, OPENING.rows, OPENING.kept(stream.steps), Terms())
            self.save()
        part = self.plan.rounds
        first = self.base + k * part.count
        while stream.steps < first + part.count:
            keep = part.keep[0] if k == 0 else part.keep[1]
            advance([stream], self.objective, part.rows, keep, self.plan.terms)
            self.glance(stream, stream.steps == first + 1)
            self.save()

    def glance(self, stream: Stream, anew: bool) -> None:
        """Note the parameters of a round whose loss is guessed lowest."""
        guess = self.held_out.glance(stream.solver)
        if anew or not guess > self.guess:
            self.likely, self.guess = stream.theta, guess

    @property
    def begun(self) -> float:
        """Mean distance of the start, with what moments add."""
        return self.found[0].mean().item() + self.found[1]

    def better(self, loss: float, near: float) -> bool:
        """Whether a solver of such a mean and robust mean is better than the best so far, by the mean.

        Than the start by the robust mean too: of few samples it may happen to send none elsewhere.
        """
        lucky = not self.ahead and loss <= DIVERGED * self.start_loss
        return loss < self.best_loss or (lucky and near < self.plan.gain * self.held_out.near(*self.found))

    def judge(self, stream: Stream, likely: Solver, val: float, near: float) -> None:
        """Keep the best; from where the loss has run away, go back to it."""
        if self.better(val, near):
            self.best, self.best_loss, self.safe, self.ahead = likely.detach(), val, self.likely, True
        elif not val <= DIVERGED * self.start_loss:
            stream.theta, stream.memory, stream.before = self.safe, Memory.of(len(self.safe)), None
            stream.damping = min(CAUTION * stream.damping, MOST)

    @property
    def winner(self) -> Solver:
        """Where the last stream began: what won the race, or the first start."""
        (lane,) = self.streams
        return self.plan.starts[self.lanes[lane]]

    def notes(self) -> list[str]:
        """What would have helped: more rounds, more samples."""
        found, objective = [], self.objective
        if self.ahead and self.best_loss > self.begun:
            found.append(f"a few of {len(objective.held_out)} held-out samples that end elsewhere put the mean distance"
                         " above the start's, and the others are nearer; more of them would help")  # fmt: skip
        if self.round and self.mark[0] == self.round:
            found.append(f"the held-out loss still fell in round {len(self.history)}, the last; more rounds would help")
        few = min(NOTED, len(objective.train), len(objective.held_out))
        trained, held_out = (objective.distances(self.best, part.at(slice(few))).log()
                             for part in (objective.train, objective.held_out))  # fmt: skip
        gap = (held_out.mean() - trained.mean()).item()
        error = math.sqrt((held_out.var() + trained.var()).item() / few) if few > 1 else math.inf
        if math.isfinite(gap) and gap > max(math.log(GAP), SURE * error):
            found.append(f"held-out samples lie {math.exp(gap):.1f} times as far from the teacher as the "
                         f"{len(objective.train)} training samples; more of those would help")  # fmt: skip
        return found

    @property
    def seconds(self) -> float:
        """Wall time so far, that of earlier runs of the same fit included."""
        return time.perf_counter() - self.started

    def save(self) -> None:
        """Write what the steps to come hang on."""
        if self.unfinished.path is None:
            return
        tensors = {f"best.{key}": array for key, array in self.best.arrays.items()}
        tensors |= {"safe": self.safe, "likely": self.likely, "last": self.held_out.last}
        streams: dict[str, Any] = {}
        for lane, stream in self.streams.items():
            parts, numbers = stream.state()
            parts |= {f"from.{key}": array for key, array in stream.family.start.arrays.items()}
            tensors |= {f"{lane}.{key}": tensor for key, tensor in parts.items()}
            streams[str(lane)] = numbers
        numbers = {key: getattr(self, key) for key in KEPT} | {"streams": streams, "seconds": self.seconds,
                   "evaluations": self.objective.evaluations, "best_loss": self.best_loss,
                   "start_loss": self.start_loss, "tolerance": self.held_out.tolerance}  # fmt: skip
        self.unfinished.save(State(tensors, numbers))

    def restore(self, state: State) -> None:
        """Inverse of ``save``."""
        tensors, numbers = state.tensors, state.numbers
        for key in KEPT:
            setattr(self, key, numbers[key])
        self.lanes = {int(lane): k for lane, k in self.lanes.items()}
        self.best = self.best.replace(**below("best.", tensors))
        self.best_loss, self.start_loss = numbers["best_loss"], numbers["start_loss"]
        self.safe, self.likely, self.held_out.last = tensors["safe"], tensors["likely"], tensors["last"]
        self.held_out.tolerance = numbers["tolerance"]
        self.objective.evaluations, self.started = numbers["evaluations"], time.perf_counter() - numbers["seconds"]
        for lane, found in numbers["streams"].items():
            parts = below(f"{lane}.", tensors)
            begin = self.plan.starts[self.lanes[int(lane)]].replace(**below("from.", parts))
            phase = 0 if self.racing else len(self.plan.phases) - 1
            self.streams[int(lane)] = self.plan.stream(begin, phase, int(lane))
            self.streams[int(lane)].restore(parts, found)
