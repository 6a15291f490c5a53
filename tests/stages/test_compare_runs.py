"""Two whole runs: which link of the chain parts them, and that only numbers that follow are merged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from small import bench, learned, run

import s4s
from s4s.cli.main import cli
from s4s.report.compare import compare
from s4s.stages.evaluate import evaluate_cell
from s4s.stages.verify import numbers


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same benchmark with two sets of the teacher."""
    where = tmp_path_factory.mktemp("compare")
    run(bench(where / "a"))
    run(bench(where / "b", teacher={"seed": 101}))
    return where / "a" / "small", where / "b" / "small"


def test_the_link_that_parts_two_runs_is_named(runs: tuple[Path, Path]) -> None:
    made = compare(*((run, numbers(run)) for run in runs))
    assert made.same == 2 and made.unlike == ()
    (cell,) = made.moved
    assert cell.links == ("teacher/pairs.safetensors: seed = 100 before, 101 after",)
    assert cell.of_sampling is not None and cell.of_seeds is None
    done = CliRunner().invoke(cli, ["compare", *map(str, runs)])
    assert f"differs, behind 1 of them: {cell.links[0]}" in done.output


def test_another_fit_of_the_same_files_is_named(runs: tuple[Path, Path], tmp_path: Path) -> None:
    """Of a run that came out otherwise, though made from the same."""
    shutil.copytree(runs[0], tmp_path / "again" / "small")
    again = bench(tmp_path / "again")
    solver, cell = again.folder.solver(learned(again)), learned(again)
    made = s4s.load_solver(solver)
    made.replace(weight=made.weight * 1.01).save(solver)
    known = s4s.records.read(again.folder.root, again.chain.name(solver))
    assert known is not None
    again.chain.note(solver, "fit", known.reads)
    evaluate_cell(again, cell)
    (moved,) = compare(*((run, numbers(run)) for run in (runs[0], again.folder.root))).moved
    assert moved.cell == cell.name and moved.links == (
        f"solvers/{cell.name}.json: other bytes, though made from the same",)  # fmt: skip


def test_only_numbers_that_follow_are_merged(runs: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(cli, ["merge", *map(str, runs), "--out", str(out)])
    (table,) = (out / "tables").glob("*.md")
    assert done.exit_code == 0 and "2 numbers are the same in several runs and count once." in table.read_text()
    shutil.copytree(runs[0], tmp_path / "small")
    path = tmp_path / "small" / "metrics" / f"{learned(bench()).name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fid": 0.1}))
    done = CliRunner().invoke(cli, ["merge", str(tmp_path / "small"), "--out", str(out)])
    assert "has changed since it was made" in str(done.exception)
