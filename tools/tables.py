"""Tables of the guides from what runs have found, so that no number is typed.

``python tools/tables.py keep results/digits`` copies a run's numbers to docs/numbers/digits, and
``python tools/tables.py`` writes the tables of README and docs anew. A table stands in its page between two comments::

    <!-- numbers
    from: digits/fid.csv
    rows: nfe
    columns:
      start: {method: classical, solver: ipndm3, schedule: edm}
      S4S-Alt: {method: s4s-alt, solver: ipndm3}
    -->
    | NFE | start | S4S-Alt |
    ...
    <!-- end of numbers -->

With ``rows`` an entry is the FID of the rows that have these values, or what ``of: fid_to_teacher`` names: a mean over
fit seeds (``seeds: each`` lists them), and of several rows the lowest. Without it ``columns`` names the columns of the
file to show, ``{FID: fid_mean}``, and ``only`` what to keep.
"""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "docs" / "numbers"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?P<head><!-- numbers\n(?P<spec>.*?)-->\n)(?P<body>.*?)(?P<end><!-- end of numbers -->)", re.DOTALL
)
OF_FID = ["benchmark", "method", "solver", "schedule", "family", "order", "nfe", "seed", "radius", "settings", "fid",
          "n_samples", "val_loss", "fit_nfe", "calls", "fid_within_classes", "class_accuracy", "fid_to_teacher",
          "distance_to_teacher"]  # fmt: skip
TABLES = ("ablations", "claims")

Row = Mapping[str, str]


def keep(results: Path) -> list[Path]:
    """Copy a run's numbers: its scores, with the commit that made each, and the tables that guides show."""
    folder = KEPT / results.name
    folder.mkdir(parents=True, exist_ok=True)
    rows = _read(results / "fid.csv")
    for row in rows:
        record = json.loads((results / row["metrics_file"]).read_text(encoding="utf-8"))
        row["commit"] = str(record["provenance"].get("git_commit") or "")[:12]
    columns = [key for key in OF_FID if key in rows[0]] + ["commit"]
    written = [folder / "fid.csv"]
    with written[0].open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for name in TABLES:
        source = results / "tables" / f"{name}.csv"
        if source.exists():
            written.append(folder / source.name)
            written[-1].write_bytes(source.read_bytes())
    return written


def filled(text: str) -> str:
    """A page with its tables as the kept numbers have them."""
    return BLOCK.sub(lambda found: found["head"] + table(yaml.safe_load(found["spec"])) + found["end"], text)


def table(spec: Mapping[str, Any]) -> str:
    """One table as Markdown."""
    rows = _read(KEPT / spec["from"])
    lines = _by_row(rows, spec["rows"], spec["columns"]) if "rows" in spec else _listed(rows, spec)
    head = [*([spec["rows"].upper()] if "rows" in spec else []), *spec["columns"]]
    return "".join(f"| {' | '.join(line)} |\n" for line in [head, ["---"] * len(head), *lines])


def _by_row(rows: Sequence[Row], key: str, columns: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """A line a value of ``key``; lines without a number are left out."""
    lines = []
    for value in sorted({row[key] for row in rows}, key=float):
        here = [row for row in rows if row[key] == value]
        line = [_entry(here, wanted) for wanted in columns.values()]
        if any(line):
            lines.append([f"{float(value):g}", *line])
    return lines


def _entry(rows: Sequence[Row], column: Mapping[str, Any]) -> str:
    """What a column says of the rows that have its values: a mean over seeds, or with ``seeds: each`` one of each."""
    wanted = {key: value for key, value in column.items() if key not in ("of", "seeds")}
    best = _lowest([row for row in rows if _has(row, wanted)], column.get("of", "fid"))
    return ", ".join(f"{value:.2f}" for value in (best if "seeds" in column or not best else [fmean(best)]))


def _lowest(rows: Sequence[Row], of: str) -> list[float]:
    """The values over seeds of the best row; empty without one."""
    seeds: dict[tuple[str, ...], list[float]] = {}
    for row in rows:
        seeds.setdefault(tuple(row.get(key, "") for key in OF_FID[:7]), []).append(float(row[of]))
    return min(seeds.values(), key=fmean, default=[])


def _has(row: Row, wanted: Mapping[str, Any]) -> bool:
    """Whether a row has these values; it is of a method as it is unless settings or a radius are asked for."""
    plain = {key: "" for key in ("settings", "radius") if key in row}
    return all(row.get(key, "") == str(value) for key, value in {**plain, **wanted}.items())


def _listed(rows: Sequence[Row], spec: Mapping[str, Any]) -> list[list[str]]:
    """The rows of the file that have the values of ``only``."""
    kept = [row for row in rows if all(row[key] == str(value) for key, value in spec.get("only", {}).items())]
    return [[_short(row[key]) for key in spec["columns"].values()] for row in kept]


def _short(value: str) -> str:
    """Numbers with a fraction to two places, others with commas; words as they are."""
    if re.fullmatch(r"-?\d+\.\d+(e-?\d+)?", value):
        number = float(value)
        return f"{number:,.0f}" if abs(number) >= 1000 or number.is_integer() else f"{number:.2f}"
    return value


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["keep"] and len(arguments) > 1:
        for folder in arguments[1:]:
            print("\n".join(map(str, keep(Path(folder)))))
    elif arguments:
        sys.exit("usage: python tools/tables.py [keep RESULTS...]")
    for page in PAGES:
        if (text := filled(before := page.read_text(encoding="utf-8"))) != before:
            page.write_text(text, encoding="utf-8")
            print(page)


if __name__ == "__main__":
    main(sys.argv[1:])
