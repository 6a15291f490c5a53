"""Our numbers beside the published ones (``published_fid.csv``, every line with its source)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files

import pandas as pd

from s4s.report.data import Record, Score
from s4s.report.labels import start_label
from s4s.report.protocol import extractors, protocol_name, protocol_note
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
    "bezierflow_ipndm": ("BézierFlow (iPNDM)", "bezierflow", ""),
    "bezierflow_unipc": ("BézierFlow (UniPC)", "bezierflow", ""),
    "indis": ("INDIS", "indis", ""),
    "adasde": ("AdaSDE", "adasde", ""),
    "teacher": ("Teacher", "teacher", ""),
    "teacher (one NFE more than the student)": ("Teacher", "teacher", ""),
}

PROTOCOLS = {
    "cifar10": ("edm", 50_000),
    "ffhq": ("edm", 50_000),
    "afhqv2": ("edm", 50_000),
    "lsun_bedroom": ("ld3-latent", 50_000),
    "imagenet256": ("ld3-latent", 50_000),
    "mscoco": ("ld3-latent", 30_000),
}
"""Of the published numbers, by benchmark: our name for the protocol, and samples; see docs/protocols.md."""


def published_numbers(benchmark: str) -> pd.DataFrame:
    """The published numbers of one benchmark: method, nfe, fid, first_step_free, source, note; empty if there are none.

    With a free first step the number of evaluations leaves out a step: an analytic one, of which the data's mean is
    the output. Such numbers share no column with others.
    """
    with files("s4s.report").joinpath("published_fid.csv").open("r", encoding="utf-8") as file:
        every = pd.read_csv(file, keep_default_na=False)
    return every[every["dataset"] == benchmark.replace("-", "_")].drop(columns="dataset").reset_index(drop=True)


def published_frame(found: Sequence[Score], records: Sequence[Record]) -> pd.DataFrame:
    """Each published number, and ours of the same kind and NFE where we have one."""
    frame = published_numbers(records[0]["benchmark"])
    ours = [_ours(found, method, nfe) for method, nfe in zip(frame["method"], frame["nfe"], strict=True)]
    frame["ours"] = [score.fid if score else None for score in ours]
    frame["cell"] = [score.cells[0] if score else "" for score in ours]
    frame["ours_row"] = [f"{score.method}, {start_label(*score.start)}" if score else "" for score in ours]
    frame["difference"] = frame["ours"].astype("float64") - frame["fid"]
    return frame.rename(columns={"fid": "published"})[
        ["method", "nfe", "first_step_free", "ours", "published", "difference", "ours_row", "cell", "source", "note"]
    ]


def published_table(found: Sequence[Score], records: Sequence[Record]) -> Table | None:
    """Published methods by NFE, ours beside each number; None if nothing was published for the benchmark."""
    frame = published_frame(found, records)
    ours = {score.nfe for score in found}
    nfes = sorted(set(frame["nfe"]) & ours) or sorted(set(frame["nfe"]))
    frame = frame[frame["nfe"].isin(nfes) & (frame["first_step_free"] == "no")]
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
    title = f"FID of {records[0]['benchmark']}: ours (less the published number) beside published numbers, by NFE."
    return Table(title, tuple(head), (tuple(rows),), tuple(notes))


def free_step_table(benchmark: str) -> Table | None:
    """What was published with a first step that is not counted; None if nothing was. Ours counts every step."""
    every = published_numbers(benchmark)
    frame = every[every["first_step_free"] == "yes"]
    if frame.empty:
        return None
    nfes, marks, rows = sorted(set(frame["nfe"])), dict[str, str](), []
    for method, lines in frame.groupby("method", sort=False):
        made = {line["nfe"]: line for _, line in lines.iterrows()}
        marked = [_marked(made[nfe], made[nfe]["fid"], marks) if nfe in made else Cell() for nfe in nfes]
        rows.append((Cell(_label(str(method))), *marked))
    notes = ["Not to be compared with the table above: their first step is free, so at an NFE they take a step more.",
             *(f"({mark}) {source}." for source, mark in marks.items())]  # fmt: skip
    title = f"Published FID of {benchmark} with a free first step, by NFE."
    return Table(title, ("Method", *map(str, nfes)), (tuple(rows),), tuple(notes))


def differences(records: Sequence[Record]) -> list[str]:
    """In what the protocol of our records is not that of the numbers published for their benchmark."""
    benchmark = records[0]["benchmark"].replace("-", "_")
    if benchmark not in PROTOCOLS:
        return [f"nothing was published for {records[0]['benchmark']}"]
    (name, count), found, ours = PROTOCOLS[benchmark], [], extractors(records)
    if not ours or not all("inception" in each.lower() for each in ours):
        found.append(f"features of {' and '.join(ours) or 'an unnamed extractor'}, not Inception")
    if (made := protocol_name(records)) != name:
        found.append(f"protocol {made or 'unnamed'}, not {name}")
    if counts := sorted({record["n_samples"] for record in records} - {count}):
        found.append(f"{' or '.join(f'{n:,}' for n in counts)} samples, not {count:,}")
    changed = sorted({key for record in records for key in record["protocol"].get("changed", [])})
    return found + ([f"the protocol with other {', '.join(changed)}"] if changed else [])


def _caveats(records: Sequence[Record]) -> list[str]:
    notes = [
        "Ours is the lowest FID among our rows of the same method at that NFE. Plain solvers: the best of our plain "
        "grids, since the source does not name one; published.csv names the row."
    ]
    names = extractors(records)
    name, count = PROTOCOLS.get(records[0]["benchmark"].replace("-", "_"), ("", 0))
    if count:
        notes.append(f"Published: Inception FID of {count:,} samples, as our protocol {name}, as far as the sources "
                     f"say. Ours differs in: {'; '.join(differences(records)) or 'nothing'}.")  # fmt: skip
    if not names or not all("inception" in name.lower() for name in names):
        notes.append("The two columns are not comparable: published numbers are Inception FID.")
    elif any(record["n_samples"] < 30_000 for record in records):
        notes.append("FID on fewer samples is biased upwards.")
    return notes


def _pair(lines: pd.DataFrame, marks: dict[str, str]) -> list[Cell]:
    if lines.empty:
        return [Cell(), Cell()]
    line = lines.iloc[0]
    ours = Cell() if pd.isna(line["ours"]) else _own(line)
    return [ours, _marked(line, line["published"], marks)]


def _own(line: pd.Series) -> Cell:
    return Cell(f"{line['ours']:.2f}", f"{line['difference']:+.2f}", of=str(line["cell"]))


def _marked(line: pd.Series, fid: float, marks: dict[str, str]) -> Cell:
    """A published number and the letter of its source."""
    source = f"{line['source']}; {line['note']}" if line["note"] else str(line["source"])
    mark = marks.setdefault(source, chr(ord("a") + len(marks)))
    return Cell(f"{fid:.2f} ({mark})")


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
