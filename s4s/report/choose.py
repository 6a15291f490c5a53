"""Which cells a picture of one NFE shows: a start, what was learned from it, and the teacher."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from s4s.errors import Error
from s4s.report.data import Record, Score, read_records, scores, to_frame
from s4s.report.labels import ordered, others, schedule_label, start_label
from s4s.report.table import winners
from s4s.report.variants import unvaried, variant_names


@dataclass(frozen=True)
class Choice:
    """The cells of one picture.

    Args:
        nfe: network evaluations a sample.
        start: the starting solver and its grid.
        cells: by method, in table order: the teacher, the classical start, what was learned from that start, and
            samplers of one's own; of each the method as it is before its variations, and the first seed, not the best.
        grids: the starting solver on every grid it was scored on, by grid.
        names: of the cells, by method, with the family and the like of those that have several.
    """

    nfe: int
    start: tuple[str, str]
    cells: dict[str, Record]
    grids: dict[str, Record]
    names: dict[str, str]

    def label(self, method: str) -> str:
        """What a row of a picture is called."""
        if method == "classical":
            return start_label(*self.start)
        return self.names[method]


def choose(metrics_files: Iterable[Path], nfe: int | None = None, start: tuple[str, str] | None = None) -> Choice:
    """Pick the cells to show.

    Args:
        metrics_files: of one benchmark.
        nfe: by default the smallest at which something was learned.
        start: ``(solver, schedule)``; by default the start that most methods were fitted from, and of those the one
            whose S4S-Alt has the lowest FID.

    Raises:
        Error: nothing was learned, or not at that NFE and from that start.
    """
    records = read_records(metrics_files)
    found = scores(to_frame(records))
    fitted = others(score.method for score in found if score.solver)
    nfe = _smallest([score for score in found if score.method in fitted]) if nfe is None else nfe
    here = [score for score in found if score.nfe == nfe and score.method != "teacher"]
    learned = [score for score in here if score.method in fitted and start in (None, score.start)]
    if not learned:
        raise Error(f"nothing was learned at NFE {nfe}" + (f" from {'/'.join(start)}" if start else ""))
    start = start or _fullest(learned)
    by_cell = {record["cell"]: record for record in records}
    teacher = next((w.teacher for w in winners(found) if w.nfe == nfe), None)
    shown = [*([teacher] if teacher else []), *(score for score in here if score.start in (start, ("", "")))]
    as_they_are = [score for score in unvaried(found) if score in shown]
    name, first = variant_names(found), {score.method: score for score in reversed([*as_they_are, *shown])}
    cells = {method: by_cell[first[method].cells[0]] for method in ordered(first)}
    plain = [score for score in here if score.method == "classical" and score.solver == start[0]]
    grids = {score.schedule: by_cell[score.cells[0]] for score in plain}
    return Choice(nfe, start, cells, grids, {method: name(score) for method, score in first.items()})


def grid_labels(choice: Choice) -> dict[str, Record]:
    """The classical grids other than the start's, by label."""
    found = choice.grids.items()
    return {f"{schedule_label(key)} grid": record for key, record in found if key != choice.start[1]}


def _smallest(learned: Sequence[Score]) -> int:
    if not learned:
        raise Error("nothing was learned: the metrics files hold only classical solvers and teachers")
    return min(score.nfe for score in learned)


def _fullest(learned: Sequence[Score]) -> tuple[str, str]:
    def rank(start: tuple[str, str]) -> tuple[int, float, tuple[str, str]]:
        scored = [score for score in learned if score.start == start]
        last = [score.fid for score in scored if score.method == "s4s-alt"] or [score.fid for score in scored]
        return -len({score.method for score in scored}), min(last), start

    return min({score.start for score in learned}, key=rank)
