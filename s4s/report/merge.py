"""Several people's runs in one table, and no two protocols in one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from s4s.errors import Error
from s4s.report.compare import run_records
from s4s.report.data import Record, scores, table_order, to_frame, write_fid_csv
from s4s.report.protocol import flatten, network, protocol_name
from s4s.report.render import write_table
from s4s.report.table import fid_frame, fid_table

UNLIKE_ALONE = ("seconds", "reference_statistics.file")  # of a protocol: what says nothing of how cells were scored


def protocol_key(record: Record) -> str:
    """What two numbers must share to stand in one table: protocol, benchmark and network, in a few letters."""
    said = {key: value for key, value in flatten(record["protocol"]).items() if not key.endswith(UNLIKE_ALONE)}
    whole = json.dumps([record["benchmark"], said, network(record)], sort_keys=True)
    return hashlib.sha256(whole.encode()).hexdigest()[:8]


def merge(runs: Mapping[str, Path], out: Path) -> list[Path]:
    """Write ``fid.csv`` of all cells, and ``tables/fid-<protocol>.{csv,md,tex}`` of those that may be compared.

    A cell that several runs have with the same FID counts once; with others, each counts as a fit.

    Args:
        runs: folders of results, by the name they go by in the table.
        out: folder to write to.

    Raises:
        Error: as ``run_records``; results already in ``out``.
    """
    if (out / "metrics").exists():
        raise Error(f"{out}: holds results of its own; give --out a new folder")
    every = [{**record, "run": run} for run, folder in runs.items() for record in run_records(folder)]
    groups: dict[str, list[Record]] = {}
    for record in every:
        groups.setdefault(protocol_key(record), []).append(record)
    frame = pd.concat([to_frame(group).assign(protocol=key, run=[record["run"] for record in group])
                       for key, group in groups.items()])  # fmt: skip
    write_fid_csv(frame, out / "fid.csv")
    written = [out / "fid.csv"]
    for key, group in groups.items():
        written += _tables(group, out / "tables" / f"fid-{key}")
    return written


def _tables(group: Sequence[Record], stem: Path) -> list[Path]:
    """The table of cells that may be compared."""
    once, notes = _once(group)
    found = scores(to_frame(once))
    table = fid_table(found, once)
    from_ = ", ".join(dict.fromkeys(record["run"] for record in group))
    heads = (f"Protocol {protocol_name(once) or 'unnamed'}, merged from {from_}.", *notes)
    table = type(table)(table.title, table.head, table.groups, (*heads, *table.notes), table.names)
    return write_table(table, fid_frame(found), stem)


def _once(group: Sequence[Record]) -> tuple[list[Record], list[str]]:
    """Cells that several runs agree on, once; and a note about those that they do not."""
    kept: dict[tuple[str, float], Record] = {}
    for record in group:
        kept.setdefault((record["cell"], record["fid"]), record)
    of: dict[str, list[Record]] = {}
    for record in kept.values():
        of.setdefault(record["cell"], []).append(record)
    notes = []
    for cell, made in of.items():
        if len(made) > 1:
            notes.append(f"{cell}: " + ", ".join(f"{r['fid']:.4g} in {r['run']}" for r in made) + ".")
    if agreed := len(group) - len(kept):
        notes.append(f"{agreed} numbers are the same in several runs and count once.")
    return sorted(kept.values(), key=table_order), notes
