"""Where a race of streams begins: the start that was given, beside textbook solvers on the grids known to work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from s4s import classical
from s4s.errors import Error
from s4s.grid import grid
from s4s.learn.family import family, is_textbook
from s4s.learn.methods import Method, moves_grid
from s4s.learn.objective import Objective
from s4s.learn.robust import robust_mean
from s4s.learn.schedule import LANES, STARTS_JUDGED
from s4s.process import EDM
from s4s.solver import Solver

GRIDS = ("edm", "logsnr")
ORDER = 3  # or the number of evaluations, if that is less
TEXTBOOK: tuple[tuple[str, dict[str, str]], ...] = (
    ("ipndm", {}),
    ("dpmpp", {}),
    ("unipc", {"variant": "bh1"}),
    ("unipc", {"variant": "bh2"}),
)


def known(start: Solver, phases: Sequence[Method], options: Mapping[str, Any]) -> list[Solver]:
    """Textbook solvers with the evaluations and the ends of a start, on the known grids, that the phases can hold.

    None for a method that keeps the grid, and for a start that is not a textbook solver itself.
    """
    found: list[Solver] = []
    if not (is_textbook(start) and moves_grid(phases[0])):
        return found
    for schedule in GRIDS:
        levels = grid(schedule, EDM(start.sigma[-1].item(), start.sigma[0].item()), start.nfe)
        for name, variant in TEXTBOOK:
            options_of: dict[str, Any] = {"order": min(ORDER, start.nfe)} | variant
            made = classical.solver(name, levels, **options_of)
            made = made.replace(provenance={**made.provenance, "schedule": schedule})
            if _held(made, phases[-1].family, options) and not _same(made, start):
                found.append(made)
    return found


def _held(solver: Solver, kind: str, options: Mapping[str, Any]) -> bool:
    """Whether a family can start there."""
    try:
        family(solver, kind, **options)
    except Error:
        return False
    return True


def _same(a: Solver, b: Solver) -> bool:
    return bool((a.sigma - b.sigma).abs().max() < 1e-9 and (a.weight - b.weight).abs().max() < 1e-9)


def lanes(given: Sequence[Solver], others: Sequence[Solver], objective: Objective, moves_grid: bool) -> list[int]:
    """A start for every stream, by its place among both: those given, again if there is room, the nearest others."""
    count = max(LANES[moves_grid], len(given))
    few = objective.held_out.at(slice(STARTS_JUDGED))
    found = objective.distances_of_each(others, [few] * len(others))
    distance = {len(given) + k: robust_mean(each) for k, each in enumerate(found)}
    near = sorted(distance, key=lambda k: distance[k])[: count // 2]
    own = [k % len(given) for k in range(max(count - len(near), len(given)))]
    return [*own, *near][:count]


def label(start: Solver) -> str:
    """A start in words, for the record."""
    options = start.provenance.get("options", {})
    variant = f"-{options['variant']}" if "variant" in options and options["variant"] not in start.name else ""
    levels = f" on {start.provenance['schedule']}" if "schedule" in start.provenance else ""
    both = [n + 1 for n, asked in enumerate(start.asks) if asked]
    fewer = f", both outputs at {both}" if len(both) < len(start.asks) else ""
    return f"{start.name}{variant}{levels}{fewer}"
