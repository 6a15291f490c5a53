"""Several people's runs in one table, and no two protocols in one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from s4s import records as chain
from s4s.errors import Error
from s4s.report.data import FIT, Record, read_records, scores, settings_text, table_order, to_frame, write_fid_csv
from s4s.report.protocol import flatten, network, protocol_name
from s4s.report.render import write_table
from s4s.report.table import fid_frame, fid_table

UNLIKE_ALONE = ("seconds", "reference_statistics.file")  # of a protocol: what says nothing of how cells were scored

NO_SETTING = ("model.", "process.", "cell.", "code", "teacher.seed")  # of a solver's record: told elsewhere, or chance


def protocol_key(record: Record) -> str:
    """What two numbers must share to stand in one table: protocol, benchmark and network, in a few letters."""
    said = {key: value for key, value in flatten(record["protocol"]).items() if not key.endswith(UNLIKE_ALONE)}
    whole = json.dumps([record["benchmark"], said, network(record)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:8]


def merge(runs: Mapping[str, Sequence[Path]], out: Path) -> list[Path]:
    """Write ``fid.csv`` of all cells, and ``tables/fid-<protocol>.{csv,md,tex}`` of those that may be compared.

    A cell that several runs have with the same FID counts once; with others, each counts as a fit. Fits of a row that
    were made with other settings, such as another teacher, stand in rows of their own.

    Args:
        runs: metrics files, by the name that their run goes by in the table.
        out: folder to write to.

    Raises:
        Error: as ``read_records``; results already in ``out``.
    """
    if (out / "metrics").exists():
        raise Error(f"{out}: holds results of its own; give --out a new folder")
    every = [{**record, "run": run} for run, files in runs.items() for record in read_records(files)]
    groups: dict[str, list[Record]] = {}
    for record in every:
        groups.setdefault(protocol_key(record), []).append(record)
    groups = {key: _told_apart(group) for key, group in groups.items()}
    frame = pd.concat([to_frame(group).assign(protocol=key, run=[record["run"] for record in group])
                       for key, group in groups.items()])  # fmt: skip
    write_fid_csv(frame, out / "fid.csv")
    written = [out / "fid.csv"]
    for key, group in groups.items():
        written += _tables(group, out / "tables" / f"fid-{key}")
    return written


def _told_apart(group: Sequence[Record]) -> list[Record]:
    """The cells, each with the settings of its fit in which others of its row differ, as settings of its own."""
    rows: dict[str, list[tuple[Record, dict[str, str]]]] = {}
    for record in group:
        row = json.dumps([record.get(key) for key in FIT if key != "nfe"], sort_keys=True)
        rows.setdefault(row, []).append((record, _made_with(record)))
    apart: dict[Path, dict[str, str]] = {}
    for fits in rows.values():
        keys = {key for _, made in fits for key in made if len({other.get(key) for _, other in fits}) > 1}
        apart |= {record["path"]: {key: made[key] for key in made if key in keys} for record, made in fits}
    return [{**record, "settings": {**(record.get("settings") or {}), **apart[record["path"]]}} for record in group]


def _made_with(record: Record) -> dict[str, str]:
    """What two fits of a row share if only their seeds differ: settings, and the file of a method of one's own."""
    made = chain.read(record["path"].parent.parent, f"solvers/{record['cell']}.json")
    said = flatten(made.made_from) if made else {}
    found = {key: value for key, value in said.items() if not key.startswith(NO_SETTING) or key == "cell.fitted"}
    own = record.get("method_file")
    return found | ({own["file"]: own["sha256"][:8]} if own else {})


def _tables(group: Sequence[Record], stem: Path) -> list[Path]:
    """The table of cells that may be compared."""
    once, notes = _once(group)
    found = scores(to_frame(once))
    table = fid_table(found, once)
    from_ = ", ".join(dict.fromkeys(record["run"] for record in group))
    heads = (f"Protocol {protocol_name(once) or 'unnamed'}, merged from {from_}.", *notes)
    return write_table(replace(table, notes=(*heads, *table.notes)), fid_frame(found), stem)


def _once(group: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Cells that several runs agree on, once; and a note about those that they do not."""
    kept: dict[tuple[str, str, float], Record] = {}
    for record in group:
        kept.setdefault((record["cell"], settings_text(record["settings"]), record["fid"]), record)
    of: dict[tuple[str, str], list[Record]] = {}
    for (cell, settings, _), record in kept.items():
        of.setdefault((cell, settings), []).append(record)
    notes = []
    for (cell, _), made in of.items():
        if len(made) > 1:
            notes.append(f"{cell}: " + ", ".join(f"{r['fid']:.4g} in {r['run']}" for r in made) + ".")
    if agreed := len(group) - len(kept):
        notes.append(f"{agreed} numbers are the same in several runs and count once.")
    return sorted(kept.values(), key=table_order), notes
