"""Where a race of streams begins: the start that was given, beside textbook solvers on the grids known to work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from s4s import classical
from s4s.errors import Error
from s4s.even import SAMPLES, Even, path_of
from s4s.grid import grid
from s4s.learn.family import family, is_textbook
from s4s.learn.methods import Method, moves_grid
from s4s.learn.objective import Objective, after
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


def races_others(start: Solver, phases: Sequence[Method]) -> bool:
    """Whether textbook solvers race beside a start: one itself, for a method that may move the grid."""
    return is_textbook(start) and moves_grid(phases[0])


def even_levels(start: Solver, objective: Objective) -> Even:
    """Even levels between the ends of a start, from the paths of a few training noises."""
    path = path_of(EDM(start.sigma[-1].item(), start.sigma[0].item()))
    parts = list(objective.train.at(slice(SAMPLES)).parts(objective.network.microbatch or SAMPLES))
    objective.evaluations += (path.nfe - 1) * sum(map(len, parts))  # the first output of a noise is known
    return Even.along(path, ((after(each.first, objective.network.under(each.condition)), each.x_T) for each in parts))


def known(start: Solver, phases: Sequence[Method], options: Mapping[str, Any], even: Even) -> list[Solver]:
    """Textbook solvers with the evaluations and the ends of a start, on the known grids, that the phases can hold.

    The start's own solver on even levels is the first.
    """
    ends = EDM(start.sigma[-1].item(), start.sigma[0].item())
    own = (start.provenance["solver"], start.provenance["options"])
    others = [(name, {"order": min(ORDER, start.nfe)} | variant) for name, variant in TEXTBOOK]
    wanted = [(*own, "even")] + [(*other, schedule) for schedule in ("even", *GRIDS) for other in others]
    found: list[Solver] = []
    for name, given, schedule in wanted:
        intervals = classical.intervals(name, start.nfe, **given)
        levels = even.levels(intervals) if schedule == "even" else grid(schedule, ends, intervals)
        made = classical.solver(name, levels, **given)
        made = made.replace(provenance={**made.provenance, "schedule": schedule})
        if _held(made, phases[-1].family, options) and not any(_same(made, other) for other in [start, *found]):
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
    return (len(a.sigma) == len(b.sigma) and bool((a.sigma - b.sigma).abs().max() < 1e-9)
            and bool((a.weight - b.weight).abs().max() < 1e-9))  # fmt: skip


def lanes(given: Sequence[Solver], others: Sequence[Solver], objective: Objective, moves_grid: bool) -> list[int]:
    """A start for every stream, by its place among both: those given, their own on even levels, the nearest others."""
    count = max(LANES[moves_grid], len(given))
    if not others:
        return [k % len(given) for k in range(count)]
    few = objective.held_out.at(slice(STARTS_JUDGED))
    found = objective.distances_of_each(others, [few] * len(others))
    distance = {len(given) + k: robust_mean(each) for k, each in enumerate(found)}

    def away(k: int) -> tuple[bool, float]:
        other = others[k - len(given)]
        return not (at_home(other, given) and other.provenance["schedule"] == "even"), distance[k]

    return [*range(len(given)), *sorted(distance, key=away)][:count]


def at_home(other: Solver, given: Sequence[Solver]) -> bool:
    """Whether a start is one of those given, or such a textbook solver on other levels."""
    return any(other is start or _options(other) == _options(start) for start in given)


def _options(start: Solver) -> Any:
    return start.provenance.get("solver"), start.provenance.get("options")


def label(start: Solver) -> str:
    """A start in words, for the record."""
    options = start.provenance.get("options", {})
    variant = f"-{options['variant']}" if "variant" in options and options["variant"] not in start.name else ""
    levels = f" on {start.provenance['schedule']}" if "schedule" in start.provenance else ""
    both = [n + 1 for n, asked in enumerate(start.asks) if asked]
    fewer = f", both outputs at {both}" if len(both) < len(start.asks) else ""
    return f"{start.name}{variant}{levels}{fewer}"
