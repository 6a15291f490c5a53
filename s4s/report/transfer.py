"""Solvers of one benchmark used on another: a table of where they were fitted and where they were used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from s4s.report.data import FIT, settings_text
from s4s.report.labels import family_label, method_label, schedule_label, solver_label
from s4s.report.render import Cell, Table, write_table

PLAIN = "FID, lower is better."
NEAR = "FID to the samples that the teacher there makes of the same noises, lower is better; then the FID to the data."
KEYS = ("fid", "fid_to_teacher", "distance_to_teacher", "fid_within_classes", "class_accuracy")


@dataclass(frozen=True)
class Use:
    """One solver used on one benchmark.

    Args:
        fitted_on: benchmark that it was fitted on; empty for a classical solver.
        record: its metrics there: method, solver, schedule, NFE and seed.
        used_on: the benchmark.
        scores: what it scores on that.
    """

    fitted_on: str
    record: Mapping[str, Any]
    used_on: str
    scores: Mapping[str, Any]


def write_transfers(uses: Sequence[Use], stem: Path) -> list[Path]:
    """Write the table as csv, md and tex."""
    frame = transfer_frame(uses)
    return write_table(transfer_table(frame), frame, stem)


def transfer_frame(uses: Sequence[Use]) -> pd.DataFrame:
    """Means over fit seeds, one line a solver and the benchmark that it was used on."""
    found: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for use in uses:
        named = {**use.record, "settings": settings_text(use.record.get("settings") or {})}
        what = (use.fitted_on, *(named.get(key) for key in FIT), use.used_on)
        found.setdefault(what, []).append(use.scores)
    lines = []
    for what, scores in found.items():
        line: dict[str, Any] = dict(zip(("fitted_on", *FIT, "used_on"), what, strict=True)) | {"fits": len(scores)}
        judged = [key for key in KEYS if all(key in one for one in scores)]
        lines.append(line | {key: sum(one[key] for one in scores) / len(scores) for key in judged})
    return pd.DataFrame(lines).fillna({"schedule": "", "family": ""})


def _method(line: Mapping[Any, Any], lines: Sequence[Mapping[Any, Any]]) -> str:
    """A line's method, with what tells it from the others of that method."""
    kinds = {(one["family"], one["order"]) for one in lines if one["method"] == line["method"]}
    own = [f"{family_label(line['family'])} {line['order']:g}"] if len(kinds) > 1 and line["family"] else []
    own += [line["settings"]] if line["settings"] else []
    own += [f"r = {line['radius']:g}"] if line["radius"] is not None and not math.isnan(line["radius"]) else []
    return ", ".join([method_label(line["method"]), *own])


def transfer_table(frame: pd.DataFrame) -> Table:
    """A row a solver, a column a benchmark; the lowest of a column and NFE bold."""
    near = "fid_to_teacher" in frame and bool(frame["fid_to_teacher"].notna().all())
    value, lines = ("fid_to_teacher" if near else "fid"), frame.to_dict("records")
    places, low = list(dict.fromkeys(line["used_on"] for line in lines)), dict[tuple[int, str], float]()
    for line in lines:
        where = line["nfe"], line["used_on"]
        low[where] = min(low.get(where, math.inf), round(line[value], 2))
    rows: dict[tuple[Any, ...], dict[str, Cell]] = {}
    for line in lines:
        bold = round(line[value], 2) == low[line["nfe"], line["used_on"]]
        cell = Cell(f"{line[value]:.2f}", f"{line['fid']:.2f}" if near else "", bold=bold)
        start = f"{solver_label(line['solver'])}, {schedule_label(line['schedule'])}"
        row = line["nfe"], line["fitted_on"] or "nothing", _method(line, lines), start
        rows.setdefault(row, {})[line["used_on"]] = cell
    groups: dict[int, list[tuple[Cell, ...]]] = {}
    for (nfe, *names), found in sorted(rows.items(), key=lambda each: each[0][0]):
        named = [Cell(str(nfe)), *map(Cell, names)]
        groups.setdefault(nfe, []).append((*named, *(found.get(place, Cell()) for place in places)))
    blocks = tuple(map(tuple, groups.values()))
    head = ("NFE", "Fitted on", "Method", "Solver or start", *(f"on {place}" for place in places))
    notes = (NEAR if near else PLAIN, "Means over fit seeds. Bold: lowest of a column and NFE.")
    return Table("Solvers on other benchmarks than their own.", head, blocks, notes, names=4)
