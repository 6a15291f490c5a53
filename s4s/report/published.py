"""Our numbers beside the published ones (``published_fid.csv``, every line with its source)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files

import pandas as pd

from s4s.report.data import Record, Score
from s4s.report.labels import start_label
from s4s.report.protocol import extractors, protocol_note
from s4s.report.render import Cell, Table

Match = Callable[[Score], bool]

_CLASSICAL = {
    "dpmpp_3m": ("DPM-Solver++ 3", ("dpmpp3",), ()),
    "unipc_3m": ("UniPC 3", ("unipc3",), ()),
    "ipndm_3m": ("iPNDM 3", ("ipndm3",), ()),
    "ipndm_2m": ("iPNDM 2", ("ipndm2",), ()),
    "unipc+dmn": ("UniPC, DMN grid", ("unipc2", "unipc3"), ("dmn",)),
    "unipc+gits": ("UniPC, GITS grid", ("unipc2", "unipc3"), ("gits",)),
    "ipndm+dmn": ("iPNDM, DMN grid", ("ipndm2", "ipndm3"), ("dmn",)),
    "ipndm+gits": ("iPNDM, GITS grid", ("ipndm2", "ipndm3"), ("gits",)),
}
_PLAIN = ("logsnr", "edm", "uniform", "quadratic")
_LEARNED = {
    "ld3_best": ("LD3, best start", "ld3", ""),
    "s4s": ("S4S", "s4s", ""),
    "s4s_lms (re-implemented by GAS authors)": ("S4S (LMS), by the GAS authors", "s4s", "lms"),
    "s4s_lms_pc (re-implemented by GAS authors)": ("S4S (PC), by the GAS authors", "s4s", "pc"),
    "s4s_alt": ("S4S-Alt", "s4s-alt", ""),
    "gs": ("GS", "guided", ""),
    "teacher": ("Teacher", "teacher", ""),
    "teacher (one NFE more than the student)": ("Teacher", "teacher", ""),
}


def published_numbers(benchmark: str) -> pd.DataFrame:
    """The published numbers of one benchmark: method, nfe, fid, source, note; empty if there are none."""
    with files("s4s.report").joinpath("published_fid.csv").open("r", encoding="utf-8") as file:
        every = pd.read_csv(file, keep_default_na=False)
    return every[every["dataset"] == benchmark.replace("-", "_")].drop(columns="dataset").reset_index(drop=True)


def published_frame(found: Sequence[Score], records: Sequence[Record]) -> pd.DataFrame:
    """Each published number, and ours of the same kind and NFE where we have one."""
    frame = published_numbers(records[0]["benchmark"])
    ours = [_ours(found, method, nfe) for method, nfe in zip(frame["method"], frame["nfe"], strict=True)]
    frame["ours"] = [score.fid if score else None for score in ours]
    frame["ours_row"] = [f"{score.method}, {start_label(*score.start)}" if score else "" for score in ours]
    return frame.rename(columns={"fid": "published"})[
        ["method", "nfe", "ours", "published", "ours_row", "source", "note"]
    ]


def published_table(found: Sequence[Score], records: Sequence[Record]) -> Table | None:
    """Published methods by NFE, ours beside each number; None if nothing was published for the benchmark."""
    frame = published_frame(found, records)
    ours = {score.nfe for score in found}
    nfes = sorted(set(frame["nfe"]) & ours) or sorted(set(frame["nfe"]))
    frame = frame[frame["nfe"].isin(nfes)]
    if frame.empty:
        return None
    marks: dict[str, str] = {}
    rows = []
    for method, lines in frame.groupby("method", sort=False):
        cells = [Cell(_label(str(method)))]
        for nfe in nfes:
            cells += _pair(lines[lines["nfe"] == nfe], marks)
        rows.append(tuple(cells))
    head = ["Method", *(f"{nfe} {side}" for nfe in nfes for side in ("ours", "publ."))]
    notes = [f"Ours: {protocol_note(records)}", *_caveats(records)]
    notes += [f"({mark}) {source}." for source, mark in marks.items()]
    title = f"FID of {records[0]['benchmark']}: ours beside published numbers, by NFE."
    return Table(title, tuple(head), (tuple(rows),), tuple(notes))


def _caveats(records: Sequence[Record]) -> list[str]:
    notes = [
        "Ours is the lowest FID among our rows of the same method at that NFE. Plain solvers: the best of our plain "
        "grids, since the source does not name one; published.csv names the row."
    ]
    names = extractors(records)
    if not names or not all("inception" in name.lower() for name in names):
        notes.append("The two columns are not comparable: published numbers are Inception FID.")
    elif any(record["n_samples"] < 30_000 for record in records):
        notes.append(
            "Published numbers use 50,000 samples (30,000 on MS-COCO); FID on fewer samples is biased upwards."
        )
    return notes


def _pair(lines: pd.DataFrame, marks: dict[str, str]) -> list[Cell]:
    if lines.empty:
        return [Cell(), Cell()]
    line = lines.iloc[0]
    source = f"{line['source']}; {line['note']}" if line["note"] else str(line["source"])
    mark = marks.setdefault(source, chr(ord("a") + len(marks)))
    ours = Cell() if pd.isna(line["ours"]) else Cell(f"{line['ours']:.2f}")
    return [ours, Cell(f"{line['published']:.2f} ({mark})")]


def _ours(found: Sequence[Score], method: str, nfe: int) -> Score | None:
    match = _match(method)
    return min((score for score in found if score.nfe == nfe and match(score)), key=lambda s: s.fid, default=None)


def _match(method: str) -> Match:
    if method in _CLASSICAL:
        _, solvers, schedules = _CLASSICAL[method]
        grids = schedules or _PLAIN
        return lambda score: score.method == "classical" and score.solver in solvers and score.schedule in grids
    if method in _LEARNED:
        _, name, family = _LEARNED[method]
        return lambda score: score.method == name and family in ("", score.family)
    return lambda score: False


def _label(method: str) -> str:
    return (_CLASSICAL.get(method) or _LEARNED.get(method) or (method.upper(),))[0]
