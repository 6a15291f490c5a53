"""What guided and class-conditional models add to tables: network calls, FID within classes, accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

from s4s.report.data import Record, Row, Score
from s4s.report.labels import METHODS, schedule_label, solver_label
from s4s.report.protocol import protocol_note
from s4s.report.render import Cell, Table
from s4s.report.variants import variant_names


def nfe_label(nfe: int, found: Sequence[Score]) -> str:
    """A column's NFE; of a guided model also the network calls that most solvers make of it."""
    return str(nfe) if all(score.calls is None for score in found) else f"{nfe} ({2 * nfe} calls)"


def fewer_calls(score: Score) -> str:
    """The calls of a solver that does not make two of every evaluation."""
    return "" if score.calls in (None, 2 * score.nfe) else f"{score.calls} calls"


Blocks = tuple[tuple[tuple[Cell, ...], ...], ...]


def by_row(found: Sequence[Score], cell: Callable[[Score], Cell], alone: int = 3) -> tuple[tuple[str, ...], Blocks]:
    """Head and blocks of a table with a row of scores, and a column for each NFE, that show ``cell``.

    The first ``alone`` of ``METHODS`` have a block each, the others one together.
    """
    nfes = sorted({score.nfe for score in found})
    rows: dict[Row, dict[int, Score]] = {}
    for score in found:
        rows.setdefault(score.row, {})[score.nfe] = score
    name = variant_names(found)
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    for columns in rows.values():
        score = next(iter(columns.values()))
        cells = [Cell(name(score)), Cell(solver_label(score.solver)), Cell(schedule_label(score.schedule))]
        cells += [cell(columns[nfe]) if nfe in columns else Cell() for nfe in nfes]
        groups.setdefault(score.method if score.method in list(METHODS)[:alone] else "", []).append(tuple(cells))
    head = ("Method", "Solver or start", "Grid", *(nfe_label(nfe, found) for nfe in nfes))
    return head, tuple(map(tuple, groups.values()))


def classes_table(found: Sequence[Score], records: Sequence[Record]) -> Table:
    """FID within classes and accuracy by row and NFE; the best of a column bold."""
    within = [(score.nfe, score.within) for score in found if score.method != "teacher" and score.within is not None]
    low = {nfe: min(value for n, value in within if n == nfe) for nfe, _ in within}
    head, blocks = by_row(found, lambda score: _cell(score, low.get(score.nfe)))
    notes = (protocol_note(records), "Mean FID within a class, its samples against the real ones of the class, then "
             "the share of samples that the scoring classifier takes for the class asked for. Bold: lowest FID within "
             "classes of a column, the teacher aside.")  # fmt: skip
    title = f"Classes of {records[0]['benchmark']} by number of network evaluations (NFE)."
    return Table(title, head, blocks, notes, names=3)


def classes_frame(found: Sequence[Score]) -> pd.DataFrame:
    """The same in full precision, one line a row and NFE."""
    lines = [score.named | {"fid_within_classes": score.within, "class_accuracy": score.accuracy} for score in found]
    return pd.DataFrame(lines).astype({"order": "Int64"})


def _cell(score: Score, low: float | None) -> Cell:
    if score.within is None or score.accuracy is None:
        return Cell()
    remark = "; ".join(filter(None, (f"{100 * score.accuracy:.1f}%", fewer_calls(score))))
    return Cell(
        f"{score.within:.2f}",
        remark,
        bold=low is not None and round(score.within, 2) == round(low, 2),
        of=score.cells[0],
    )
