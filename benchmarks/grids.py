"""Textbook solvers on the grid ``even``, beside the grids of a benchmark that has run: docs/numbers/even/fid.csv.

    python benchmarks/grids.py results/digits results/digits-vp results/digits-flow results/digits-latent

Takes the networks, noises and reference of each benchmark, and its textbook solvers. Rows of its own grids are those of
its ``fid.csv``.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

import s4s
from s4s.classical import intervals
from s4s.stages.bench import Bench
from s4s.stages.cells import cells
from s4s.stages.config import load
from s4s.stages.transfer import evaluate_solver

OUT = Path(__file__).parents[1] / "docs" / "numbers" / "even" / "fid.csv"
COLUMNS = ("benchmark", "method", "solver", "schedule", "nfe", "fid", "fid_to_teacher", "commit")


def known(folder: Path) -> Iterator[dict[str, Any]]:
    """The textbook rows of a benchmark's table, and its teacher's."""
    with (folder / "fid.csv").open(encoding="utf-8") as file:
        yield from (row for row in csv.DictReader(file) if row["method"] in ("classical", "teacher"))


def found(folder: Path) -> Iterator[dict[str, Any]]:
    """The same solvers on even levels."""
    bench = Bench(load(folder / "config.yaml"), folder.parent)
    every = (cell for cell in cells(bench.config) if cell.method == "classical")
    made = {(cell.solver, str(cell.options), cell.nfe): cell for cell in every}
    for cell in tqdm(made.values(), folder.name):
        steps = intervals(cell.solver, cell.nfe, **cell.options)
        levels = s4s.grid("even", bench.process, steps, denoise=bench.denoiser(range(32)), shape=bench.model.shape)
        solver = s4s.solver(cell.solver, levels, **cell.options)
        with tempfile.TemporaryDirectory() as temporary:
            path = Path(temporary) / "even.json"
            solver.save(path)
            _, says = evaluate_solver(bench, path)
        yield {"method": "classical", "solver": solver.name, "schedule": "even", "nfe": cell.nfe, "fid": says["fid"],
               "fid_to_teacher": says.get("fid_to_teacher", ""),
               "commit": (says["provenance"].get("git_commit") or "")[:12]}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    rows = [{"benchmark": folder.name, **row} for folder in args.results for row in [*known(folder), *found(folder)]]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    with args.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
