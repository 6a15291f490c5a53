"""Tables of the guides say what the kept numbers of runs say."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "tables.py"
tables: dict[str, Any] = runpy.run_path(str(TOOL))
SHOWN = [page for page in tables["PAGES"] if "<!-- numbers\n" in page.read_text()]


@pytest.mark.parametrize("page", SHOWN, ids=lambda page: page.name)
def test_a_table_is_what_its_run_found(page: Path) -> None:
    assert tables["filled"](page.read_text()) == page.read_text(), "run `python tools/tables.py`"


def test_there_are_such_tables_and_every_kept_run_is_shown() -> None:
    text = "".join(page.read_text() for page in SHOWN)
    folders = {path.parent.name for path in tables["KEPT"].glob("*/*.csv")}
    assert SHOWN and all(f"from: {folder}/" in text for folder in folders), folders


def test_entries_are_means_over_seeds_of_the_lowest_row() -> None:
    base = {"method": "s4s", "solver": "ipndm3", "schedule": "edm", "nfe": "4", "settings": ""}
    rows = [base | {"fid": "4.0"}, base | {"fid": "5.0"}, base | {"fid": "1.0", "settings": "train 25"},
            base | {"fid": "9.0", "solver": "ddim"}, base | {"fid": "4.25", "solver": "ddim", "nfe": "6"}]  # fmt: skip
    made = tables["_by_row"](rows, "nfe", {"S4S": {"method": "s4s"}, "DDIM": {"method": "s4s", "solver": "ddim"}})
    assert made == [["4", "4.50", "9.00"], ["6", "4.25", "4.25"]]
    each = {"S4S": {"method": "s4s", "solver": "ipndm3", "seeds": "each"}}
    assert tables["_by_row"](rows, "nfe", each) == [["4", "4.00, 5.00"]]
    near = [{**row, "fid_to_teacher": str(float(row["fid"]) / 4)} for row in rows]
    columns = {"S4S": {"method": "s4s", "of": "fid_to_teacher"}}
    assert tables["_by_row"](near, "nfe", columns) == [["4", "1.12"], ["6", "1.06"]]
