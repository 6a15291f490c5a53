"""How near solvers come to what their teacher makes of the same noises."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from s4s.report.classes import by_row, fewer_calls
from s4s.report.data import Record, Score
from s4s.report.protocol import feature_space
from s4s.report.render import Cell, Table


def compared(found: Sequence[Score]) -> list[Score]:
    """Scores whose FID is that to the teacher's own samples, without the teacher."""
    return [
        replace(score, fid=score.to_teacher, std=None)
        for score in found
        if score.method != "teacher" and score.to_teacher is not None
    ]


def imitation_table(found: Sequence[Score], records: Sequence[Record]) -> Table:
    """FID to the teacher's samples and distance to them, by row and NFE; the best of a column bold."""
    found = compared(found)
    low: dict[int, float] = {}
    for score in found:
        low[score.nfe] = min(score.fid, low.get(score.nfe, math.inf))
    head, blocks = by_row(found, lambda score: _cell(score, low[score.nfe]))
    notes = (f"{feature_space(records)} FID between {records[0]['n_samples']:,} samples and those "
             "that the teacher makes of the same noises, then the mean squared distance of the two in features; both "
             "are 0 for the teacher. Means over fit seeds. Bold: lowest FID of a column.")  # fmt: skip
    title = f"Nearness to the teacher on {records[0]['benchmark']} by number of network evaluations (NFE)."
    return Table(title, head, blocks, (notes,), names=3)


def imitation_frame(found: Sequence[Score]) -> pd.DataFrame:
    """The same in full precision, one line a row and NFE."""
    lines = [
        score.named | {"fid_to_teacher": score.to_teacher, "distance_to_teacher": score.off_teacher}
        for score in compared(found)
    ]
    return pd.DataFrame(lines).astype({"order": "Int64"})


def _cell(score: Score, low: float) -> Cell:
    assert score.off_teacher is not None
    remark = "; ".join(filter(None, (f"{score.off_teacher:.3g}", fewer_calls(score))))
    return Cell(f"{score.fid:.2f}", remark, bold=round(score.fid, 2) == round(low, 2), of=score.cells[0])
