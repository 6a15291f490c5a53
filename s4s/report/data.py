"""Metrics files in, one checked table out. Nothing here knows how a number was computed."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from s4s.errors import Error, choose
from s4s.files import write_text
from s4s.report.labels import METHODS, method_order

COLUMNS = [
    "benchmark",
    "method",
    "solver",
    "schedule",
    "family",
    "order",
    "nfe",
    "seed",
    "fid",
    "n_samples",
    "val_loss",
    "fit_seconds",
    "fit_nfe",
    "sample_seconds",
    "metrics_file",
]
EXTRA = ["radius", "calls", "fid_within_classes", "class_accuracy", "fid_to_teacher", "distance_to_teacher", "unseen"]
"""Columns after those, where a benchmark has them: of several radii, guidance, classes, the teacher's samples."""
JUDGED = {"within": "fid_within_classes", "accuracy": "class_accuracy",
          "to_teacher": "fid_to_teacher", "off_teacher": "distance_to_teacher"}  # fmt: skip
"""What else than the FID a score may have, and its column."""
ROW = ["method", "solver", "schedule", "family", "order"]
"""What a row of the FID table is: everything but the NFE and the seed of the fit."""
FIT = (*ROW, "radius", "settings", "nfe")
"""What fits that differ in the seed alone share."""

_TEXT = ("cell", "benchmark", "method", "solver", "schedule", "family", "fid_label")
_WHOLE = ("order", "nfe", "seed", "n_samples", "fit_nfe")
_NUMBER = ("fid", "val_loss", "fit_seconds", "sample_seconds")
_RECORD = ("protocol", "provenance")
_NULLABLE = {"schedule", "family", "order", "seed", "val_loss", "fit_seconds", "fit_nfe", "sample_seconds"}

_TEACHER_NFE = "teacher NFE"  # what tables call the setting ``teacher_nfe``
_ORDER = ("order", "radius", "nfe", "seed")

Row = tuple[str, str, str, str, int, float, str]
Record = dict[str, Any]
"""One metrics file, checked."""


@dataclass(frozen=True)
class Score:
    """FID of one table row at one NFE: the mean over its fit seeds.

    Args:
        method, solver, schedule, family, order: the row (see ``ROW``).
        nfe: network evaluations a sample.
        fid: mean over fit seeds, lower is better.
        std: sample standard deviation over fit seeds; None with one seed.
        cells: names of the cells averaged, by seed.
        radius: of the relaxed objective, where the benchmark has several.
        calls: network calls a sample, where an evaluation may be two.
        settings: what the row has of its own besides, as words; empty for most.
        within, accuracy: mean FID within a class, and share of samples of the class asked for; means over fit seeds.
        to_teacher, off_teacher: FID to the teacher's own samples, and mean squared distance of features to its sample
            of the same noise; means over fit seeds.
        unseen: whether it is of a curve that is not fitted on this NFE.
    """

    method: str
    solver: str
    schedule: str
    family: str
    order: int | None
    nfe: int
    fid: float
    std: float | None
    cells: tuple[str, ...]
    radius: float | None = None
    calls: int | None = None
    settings: str = ""
    within: float | None = None
    accuracy: float | None = None
    to_teacher: float | None = None
    off_teacher: float | None = None
    unseen: bool = False

    @property
    def row(self) -> Row:
        """Sort key of the table row; scores of one row at several NFE share it."""
        radius = -1.0 if self.radius is None else self.radius
        return self.method, self.solver, self.schedule, self.family, self.order or 0, radius, self.settings

    @property
    def named(self) -> dict[str, object]:
        """The row and the NFE by column; the radius where it has one."""
        made = {key: getattr(self, key) for key in (*ROW, "nfe")}
        more = {key: getattr(self, key) or None for key in ("calls", "settings")} | {"radius": self.radius}
        return made | {key: value for key, value in more.items() if value is not None}

    @property
    def start(self) -> tuple[str, str]:
        """The starting solver and its grid (or, for a classical solver, itself)."""
        return self.solver, self.schedule


def read_record(path: Path) -> Record:
    """Read and check one metrics file.

    Raises:
        Error: the file is missing, truncated, lacks a key, or holds a value of the wrong type or a non-finite number.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Error(f"{path}: cannot read the metrics file: {error.strerror}") from error
    except ValueError as error:
        raise Error(f"{path}: not a metrics file, or a truncated one ({error}); evaluate the cell again") from error
    if not isinstance(record, dict):
        raise Error(f"{path}: a metrics file holds one JSON object, this one a {type(record).__name__}")
    missing = [key for key in (*_TEXT, *_WHOLE, *_NUMBER, *_RECORD) if key not in record]
    if missing:
        raise Error(f"{path}: the metrics file lacks {', '.join(missing)}; evaluate the cell again")
    for key in (*_TEXT, *_WHOLE, *_NUMBER, *_RECORD):
        if not _valid(key, record[key]):
            raise Error(f"{path}: '{key}' is {json.dumps(record[key])[:60]}, needs {_need(key)}")
    if record["method"] not in METHODS and not record.get("method_file"):
        raise Error(f"{path}: {choose('method', record['method'], METHODS)}")
    if record["cell"] != path.stem:
        raise Error(f"{path}: the file is of cell {record['cell']!r}; its name must be {record['cell']}.json")
    return {**record, "schedule": record["schedule"] or "", "family": record["family"] or ""}


def read_records(metrics_files: Iterable[Path]) -> list[Record]:
    """Read the metrics files of one benchmark, in table order, each with its path under the key ``path``.

    Raises:
        Error: as ``read_record``; no files, several benchmarks, or two files of the same row, NFE and seed.
    """
    records = [{**read_record(path), "path": path} for path in map(Path, metrics_files)]
    if not records:
        raise Error("no metrics files to report on; run `s4s evaluate` first")
    benchmarks = sorted({record["benchmark"] for record in records})
    if len(benchmarks) > 1:
        raise Error(f"metrics of several benchmarks in one report: {', '.join(benchmarks)}; report on one at a time")
    records.sort(key=table_order)
    for before, after in itertools.pairwise(records):
        if table_order(before) == table_order(after):
            raise Error(f"{before['path']} and {after['path']} are the same row, NFE and seed; remove one")
    return records


def collect(metrics_files: Iterable[Path]) -> pd.DataFrame:
    """One row a cell, in table order, with exactly the columns of ``fid.csv``, and of ``EXTRA`` those it has.

    Raises:
        Error: as ``read_records``.
    """
    return to_frame(read_records(metrics_files))


def to_frame(records: Sequence[Record]) -> pd.DataFrame:
    """The table of checked records, in their order."""
    rows = [{**record, "metrics_file": str(record["path"])} for record in records]
    extra = [key for key in EXTRA if any(record.get(key) is not None for record in records)]
    own = ["settings"] * any(record.get("settings") for record in records)
    rows = [{**row, "settings": settings_text(row.get("settings") or {})} for row in rows]
    frame = pd.DataFrame(rows, columns=COLUMNS + extra + own)
    whole = {key: "Int64" for key in (*_WHOLE, *(["calls"] if "calls" in extra else []))}
    return frame.astype({**dict.fromkeys([*_NUMBER, *extra], "float64"), **whole})


def write_fid_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write ``fid.csv``: full float precision, ``metrics_file`` relative to the CSV, the same bytes every time."""
    here = path.parent.resolve()
    files = [Path(os.path.relpath(Path(file).resolve(), here)).as_posix() for file in frame["metrics_file"]]
    write_csv(frame.assign(metrics_file=files), path)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a table whole or not at all, floats in the shortest form that reads back exactly."""
    write_text(path, frame.to_csv(index=False, lineterminator="\n"))


def scores(frame: pd.DataFrame) -> list[Score]:
    """Average the cells of each row and NFE over their fit seeds, keeping table order."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for cell in frame.to_dict("records"):
        values = {str(key): None if value is pd.NA else value for key, value in cell.items()}
        values |= {key: None if pd.isna(values.get(key)) else values[key] for key in EXTRA}
        values.setdefault("settings", "")
        found.setdefault(tuple(values[key] for key in [*ROW, "nfe", "radius", "settings"]), []).append(values)
    return [_score(cells) for cells in found.values()]


def settings_text(settings: Mapping[str, Any]) -> str:
    """What a row has of its own, in words: ``train 100``."""
    words = {("decoupled", False): "not decoupled", ("race", False): "no race"}
    said = [words.get((key, value), key) if isinstance(value, bool) else f"{key} {_plain(value)}"
            for key, value in sorted(settings.items())]  # fmt: skip
    return ", ".join(text.replace("teacher_nfe", _TEACHER_NFE) for text in said)


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return " + ".join(f"{weight:g} {name}" for name, weight in value.items())
    return value if isinstance(value, str) else f"{value:g}"


def best(found: Iterable[Score], method: str, nfe: int | None = None) -> Score | None:
    """The score of ``method`` with the lowest mean FID, at one NFE or at any; None if there is none."""
    matches = [score for score in found if score.method == method and nfe in (None, score.nfe)]
    return min(matches, key=lambda score: score.fid, default=None)


def teacher_of(found: Iterable[Score], nfe: int) -> Score | None:
    """The teacher of the students of an NFE: of one evaluation more, where each has one, else the strongest for all.

    Teachers that only a method's entry asks for, by its ``teacher_nfe``, are not the benchmark's own.
    """
    found = list(found)
    every = {score.nfe: score for score in found if score.method == "teacher"}
    paced = {score.nfe + 1 for score in found if score.method != "teacher"}
    asked = {int(own) for score in found for own in re.findall(rf"{_TEACHER_NFE} (\d+)", score.settings)}
    own = (every.keys() - asked) or every.keys()
    return every.get(nfe + 1 if own & paced and paced <= every.keys() else max(own, default=0))


def start_of(found: Iterable[Score], learned: Score) -> Score | None:
    """The classical solver a learned one started from, at the same NFE."""
    return best([score for score in found if score.start == learned.start], "classical", learned.nfe)


def _score(cells: Sequence[Mapping[str, Any]]) -> Score:
    fid = pd.Series([cell["fid"] for cell in cells], dtype="float64")
    row = {key: cells[0][key] for key in [*ROW, "nfe", "radius", "calls", "settings"]}
    names = tuple(Path(cell["metrics_file"]).stem for cell in cells)
    judged: dict[str, Any] = {name: _mean(cells, key) for name, key in JUDGED.items()}
    std, unseen = float(fid.std()) if len(cells) > 1 else None, bool(cells[0]["unseen"])
    return Score(**row, fid=float(fid.mean()), std=std, cells=names, unseen=unseen, **judged)


def _mean(cells: Sequence[Mapping[str, Any]], key: str) -> float | None:
    values = [cell[key] for cell in cells]
    return None if None in values else float(sum(values) / len(values))


def table_order(record: Record) -> tuple[Any, ...]:
    """Sort key of a cell: its row in the tables, its NFE and its seed."""
    order, radius, nfe, seed = (-1 if record.get(key) is None else record[key] for key in _ORDER)
    row = method_order(record["method"]), record["solver"], record["schedule"], record["family"]
    return *row, order, radius, settings_text(record.get("settings") or {}), nfe, seed


def _valid(key: str, value: object) -> bool:
    if value is None:
        return key in _NULLABLE
    if key in _TEXT:
        return isinstance(value, str)
    if key in _RECORD:
        return isinstance(value, dict)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, int) if key in _WHOLE else math.isfinite(value)


def _need(key: str) -> str:
    kinds = {_TEXT: "text", _WHOLE: "a whole number", _NUMBER: "a finite number", _RECORD: "an object"}
    kind = next(name for keys, name in kinds.items() if key in keys)
    return f"{kind} or null" if key in _NULLABLE else kind
