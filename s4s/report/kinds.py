"""One table over several benchmarks: who wins in every kind of model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from s4s.report.classes import fewer_calls, nfe_label
from s4s.report.data import Record, Score, read_records, scores, to_frame
from s4s.report.labels import method_label, others
from s4s.report.protocol import feature_space, fid_name
from s4s.report.render import Cell, Table, write_table
from s4s.report.table import Winner, winners

Benchmark = tuple[list[Record], list[Score]]


def write_kinds(benchmarks: Sequence[Sequence[Path]], stem: Path) -> list[Path]:
    """Write the table as csv, md and tex.

    Args:
        benchmarks: metrics files of each.
        stem: path of the table without a suffix.

    Raises:
        Error: as ``s4s.report.data.read_records``, for any of them.
    """
    read = [read_records(files) for files in benchmarks]
    found = [(records, scores(to_frame(records))) for records in read]
    return write_table(kinds_table(found), kinds_frame(found), stem)


def kinds_table(benchmarks: Sequence[Benchmark]) -> Table:
    """FID of the best of each method, a row an NFE, a group a benchmark."""
    methods = others(score.method for _, found in benchmarks for score in found)
    groups = []
    for records, found in benchmarks:
        rows = [
            (Cell(records[0]["benchmark"]), Cell(nfe_label(winner.nfe, found)), *_cells(winner, methods))
            for winner in winners(found)
        ]
        groups.append(tuple(rows))
    spaces = dict.fromkeys(feature_space(records) for records, _ in benchmarks)
    labels = dict.fromkeys(fid_name(records) for records, _ in benchmarks)
    notes = (f"{' and '.join(labels)}, lower is better. {' '.join(spaces)}", "Each entry is the best of its method at "
             "that NFE (mean over fit seeds). Bold: best of a row, the teacher aside.")  # fmt: skip
    head = ("Benchmark", "NFE", "Best textbook", *(method_label(method) for method in methods), "Teacher")
    return Table("Best of each method in every kind of model.", head, tuple(groups), notes, names=2)


def kinds_frame(benchmarks: Sequence[Benchmark]) -> pd.DataFrame:
    """The same in full precision, one line a benchmark, NFE and method."""
    lines = []
    for records, found in benchmarks:
        for winner in winners(found):
            entries = {"classical": winner.classical, **winner.learned, "teacher": winner.teacher}
            lines += [
                {"benchmark": records[0]["benchmark"], "nfe": winner.nfe, "method": method, "solver": score.solver,
                 "schedule": score.schedule, "calls": score.calls, "fid": score.fid, "fits": len(score.cells),
                 "fid_within_classes": score.within, "class_accuracy": score.accuracy,
                 "fid_to_teacher": score.to_teacher}
                for method, score in entries.items() if score
            ]  # fmt: skip
    judged = dict.fromkeys(["fid_within_classes", "class_accuracy", "fid_to_teacher"], "float64")
    return pd.DataFrame(lines).astype({"calls": "Int64", **judged})


def _cells(winner: Winner, methods: Sequence[str]) -> list[Cell]:
    learned = [winner.learned.get(method) for method in methods]
    low = min((score.fid for score in [winner.classical, *learned] if score), default=None)
    cells = [
        Cell()
        if score is None
        else Cell(f"{score.fid:.2f}", fewer_calls(score), bold=low is not None and round(score.fid, 2) == round(low, 2))
        for score in [winner.classical, *learned]
    ]
    teacher = winner.teacher
    return [*cells, Cell(f"{teacher.fid:.2f}", f"{teacher.nfe} NFE") if teacher else Cell()]
