"""What each method makes of every start: the paper's claim, cell by cell."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from s4s.report.data import Record, Row, Score, start_of
from s4s.report.labels import method_label, schedule_label, solver_label
from s4s.report.protocol import protocol_note
from s4s.report.render import Cell, Table
from s4s.report.variants import variant_names

Pair = tuple[Score, Score]
"""A learned score and that of the classical solver it started from."""


def pairs(found: Sequence[Score]) -> list[Pair]:
    """Learned scores whose start was scored too, in table order."""
    learned = [score for score in found if score.method not in ("teacher", "classical") and score.solver]
    return [(score, start) for score in learned if (start := start_of(found, score)) is not None]


def gains_table(found: Sequence[Score], records: Sequence[Record]) -> Table | None:
    """FID of the start and of what was learned from it, one column an NFE; None without such pairs."""
    made = pairs(found)
    if not made:
        return None
    nfes = sorted({score.nfe for score, _ in made})
    rows: dict[Row, dict[int, Pair]] = {}
    for score, start in made:
        rows.setdefault(score.row, {})[score.nfe] = (score, start)
    name = variant_names(found)
    groups: dict[str, list[tuple[Cell, ...]]] = {}
    for columns in rows.values():
        score = next(iter(columns.values()))[0]
        cells = [Cell(name(score)), Cell(solver_label(score.solver)), Cell(schedule_label(score.schedule))]
        cells += [_cell(columns[nfe]) if nfe in columns else Cell() for nfe in nfes]
        groups.setdefault(score.method, []).append(tuple(cells))
    notes = [protocol_note(records), "FID of the start, then of what was learned from it (mean over fit seeds); bold: "
             "lower than its start.", *(_count(method, made) for method in groups)]  # fmt: skip
    title = f"What learning makes of each start on {records[0]['benchmark']}, by number of network evaluations (NFE)."
    head = ("Method", "Start", "Grid", *map(str, nfes))
    return Table(title, head, tuple(map(tuple, groups.values())), tuple(notes), names=3)


def gains_frame(found: Sequence[Score]) -> pd.DataFrame:
    """The same in full precision, one line a row and NFE."""
    lines = []
    for score, start in pairs(found):
        line: dict[str, object] = score.named
        lines.append(line | {"start_fid": start.fid, "fid_mean": score.fid, "ratio": score.fid / start.fid})
    return pd.DataFrame(lines).astype({"order": "Int64"})


def _count(method: str, made: Sequence[Pair]) -> str:
    own = [(score, start) for score, start in made if score.method == method]
    lower = sum(score.fid < start.fid for score, start in own)
    return f"{method_label(method)} is below its start in {lower} of {len(own)} cells."


def _cell(pair: Pair) -> Cell:
    score, start = pair
    return Cell(f"{start.fid:.2f} → {score.fid:.2f}", bold=score.fid < start.fid, of=score.cells[0])
