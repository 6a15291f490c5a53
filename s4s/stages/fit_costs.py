"""Network evaluations of a fit, from its schedule alone: linear in those of the solver."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch

from s4s import classical
from s4s.curve import OWN
from s4s.even import SAMPLES, STEPS, Even
from s4s.grid import grid
from s4s.learn.family import is_textbook
from s4s.learn.held_out import RULING
from s4s.learn.methods import APART, Method, moves_grid, moves_levels, phases
from s4s.learn.objective import TRIED
from s4s.learn.schedule import (
    ALONE,
    CURVE,
    HEAT,
    HEATS,
    JUDGED,
    LANES,
    LANES_OF_CURVE,
    LEFT,
    LOOK,
    MOMENTS,
    NOTED,
    OPENING,
    OWN_STEPS,
    POLISH,
    RACE,
    ROUND,
    SMALL,
    STARTS_JUDGED,
    SWEEPS,
    Steps,
)
from s4s.learn.sketch import MOMENT_PULLS
from s4s.learn.starts import known, races_others
from s4s.learn.visits import rows_at
from s4s.process import EDM
from s4s.stages.cells import Cell, learned_as, radius_of

Config = Mapping[str, Any]


@dataclass(frozen=True)
class _Count:
    """What evaluations hang on. The first output of a noise is known, unless the noise moves."""

    nfe: int
    train: int
    held_out: int
    microbatch: int | None

    def judged(self, most: int) -> int:
        """Of a look at held-out samples."""
        return (self.nfe - 1) * min(most, self.held_out)

    def batches(self, part: Steps, first: int, last: int, moments: bool = False, moving: bool = False) -> int:
        """Of some batches of a stream: forward, back for gradient and curvature, one step tried, and noises moved.

        A small batch's step is tried on the batch before, too; one in parts asks for their median distance first.
        """
        rows, passes = min(part.rows, self.train), 4 + MOMENT_PULLS * moments
        split = rows > (self.microbatch or rows)
        a_pass = self.nfe if moving else self.nfe - 1
        small = rows <= SMALL and not moments and not moving
        again = (last - max(first, 1)) * small
        return rows * ((last - first) * (a_pass * (passes + split) + 2 * self.nfe * moving) + again * a_pass)

    def visits(self, sweeps: tuple[int, int], alone: bool) -> int:
        """Of the small and the larger batches of a curve's fit; small steps are tried on the step before, too."""
        total = 0
        for part, count, small in zip(ALONE if alone else CURVE, sweeps, (True, False), strict=True):
            rows = min(part.rows if alone else rows_at(part.rows, self.nfe), self.train)
            total += count * rows * (self.nfe - 1) * (4 + small + (rows > (self.microbatch or rows)))
        return total

    def kept(self, steps: int, looks: int) -> int:
        """Of looks at held-out samples, before and between some steps whose best is kept."""
        return (1 + looks) * self.judged(self.held_out) + steps * self.judged(RULING)


def fit_evaluations(config: Config, cell: Cell) -> int:
    """Of one fit by reverse mode that goes through all its rounds, with one damping trial a batch; 0 of one's own."""
    if cell.file is not None:
        return 0
    if cell.polished:
        return curve_evaluations(config, [replace(cell, fitted=(cell.nfe,))], polish=True)
    learned, spec = learned_as(config, cell), config["teacher"]
    count = _Count(cell.nfe, cell.settings.get("train", spec["train"]), spec["validation"], learned.get("microbatch"))
    course, others = _course(cell.method, cell.family, cell.order, cell.solver, tuple(cell.options.items()), cell.nfe)
    moments, moving = learned["moments"] > 0, radius_of(config, cell) > 0
    tried = 3 * (1 + any(map(moves_levels, course))) * TRIED + 1  # whether reverse mode works, and its activations
    total = count.train + count.held_out + tried  # first outputs
    total += count.judged(count.held_out)
    raced = others * cell.settings.get("race", True)
    total += raced * count.judged(STARTS_JUDGED) + (raced > 0) * min(SAMPLES, count.train) * (STEPS - 1)
    # outputs apart: the first, known one is of both mixed; with calls left out, a second fit follows
    last_phase = replace(count, nfe=count.nfe + (course[-1].family in APART))
    first, lanes = 0, LANES[moves_grid(course[0])]
    for last, left in zip(HEATS[raced > 0], (lanes, *LEFT), strict=False):
        total += left * (count.batches(RACE, first, last) + count.judged(JUDGED))
        first = last
    total += count.batches(RACE, first, RACE.count)
    total += last_phase.judged(count.held_out) + (len(course) > 1) * last_phase.batches(OPENING, 0, OPENING.count)
    part = MOMENTS if moments else ROUND
    looks = last_phase.judged(count.held_out) + part.count * last_phase.judged(RULING) * (not moments)
    a_round = last_phase.batches(part, 1, 1 + part.count, moments, moving) + looks
    total += learned["rounds"] * a_round + 2 * last_phase.judged(min(NOTED, count.train))
    return total * (2 if course[-1].skips else 1)


def curve_evaluations(config: Config, members: Sequence[Cell], polish: bool = False) -> int:
    """Of the fit of a curve, or of its polish, and of its report, with one damping trial a step."""
    sweeps, lanes = (POLISH, 1) if polish else (SWEEPS, LANES_OF_CURVE)
    spec, fitted = config["teacher"], members[0].fitted
    counts = {cell.nfe: _Count(cell.nfe, spec["train"], spec["validation"], config["learned"].get("microbatch"))
              for cell in members}  # fmt: skip
    total = spec["train"] + spec["validation"] + 6 * TRIED + 1
    for nfe, count in counts.items():
        total += count.judged(count.held_out) + (2 if nfe in fitted else 1) * count.judged(JUDGED)
        if nfe in fitted:
            total += lanes * count.judged(JUDGED) + (lanes - 1) * count.visits((HEAT, 0), polish)
            total += count.visits(sweeps, polish)
            if polish:
                total += count.kept(POLISH[1], -(-POLISH[1] // LOOK))
            elif nfe in OWN:
                total += count.visits((0, OWN_STEPS), True) + count.kept(OWN_STEPS, 1)
    return total


@cache
def _course(
    method: str, kind: str | None, order: int | None, solver: str, options: tuple[tuple[str, Any], ...], nfe: int
) -> tuple[list[Method], int]:
    """Phases of a fit, and how many textbook starts it is raced beside."""
    chosen = dict(options)
    levels = grid("edm", EDM(), classical.intervals(solver, nfe, **chosen))
    start = classical.solver(solver, levels, **chosen)
    course = phases(method, is_textbook(start), kind)
    given = {"order": order, "convert": None} | ({"guidance": 2.0} if course[-1].family in APART else {})
    if not races_others(start, course):
        return course, 0
    some = Even(levels[[0, -1]], torch.tensor([0.0, 1.0]))  # on any levels as many take part
    return course, len(known(start, course, given, some))
