"""Bundles: several solvers in one file, and what reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import s4s
from s4s.bundle import bundle_from_dict
from s4s.cli.main import cli
from s4s.solver import ARRAYS

GRIDS = {nfe: s4s.grid("edm", s4s.EDM(), nfe) for nfe in (3, 4, 6)}
SOLVERS = {nfe: s4s.solver("unipc", grid, order=2) for nfe, grid in GRIDS.items()}
BUNDLE = s4s.Bundle({nfe: SOLVERS[nfe] for nfe in (6, 3, 4)}, {"model": "digits"})


def test_a_bundle_is_a_mapping_in_rising_order() -> None:
    assert list(BUNDLE) == [3, 4, 6] and len(BUNDLE) == 3 and BUNDLE[4] is SOLVERS[4]
    assert 4 in BUNDLE and 5 not in BUNDLE and BUNDLE.get(5) is None
    assert [*map(type, s4s.Bundle({np.int64(4): SOLVERS[4]}))] == [int]
    with pytest.raises(s4s.Error, match="no solver makes '4' evaluations here, only 3, 4, 6"):
        BUNDLE["4"]  # type: ignore[index]
    with pytest.raises(s4s.Error, match="no solver makes 5 evaluations here, only 3, 4, 6"):
        BUNDLE[5]


def test_numbers_of_numpy_in_the_record(tmp_path: Path) -> None:
    s4s.Bundle(SOLVERS, {"loss": np.float32(0.5)}).save(tmp_path / "a.json")
    assert s4s.load_bundle(tmp_path / "a.json").provenance == {"loss": 0.5}


def test_one_file_exact_and_the_same_bytes_every_time(tmp_path: Path) -> None:
    moved = s4s.Bundle({**SOLVERS, 3: SOLVERS[3].replace(noise=s4s.Start([0.5], 79.0))}, {"model": "digits"})
    moved.save(tmp_path / "a.json")
    again = s4s.load_bundle(tmp_path / "a.json")
    again.save(tmp_path / "b.json")
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert again.provenance == {"model": "digits"} and again[4].provenance == SOLVERS[4].provenance
    assert again[3].noise is not None and again[3].noise.same(moved[3].noise)
    for nfe, solver in SOLVERS.items():
        assert all(torch.equal(getattr(again[nfe], key), getattr(solver, key)) for key in ARRAYS)
    rows = [line for line in (tmp_path / "a.json").read_text().splitlines() if line.strip().startswith("[")]
    assert len(rows) == 4 + 5 + 7, "one matrix row a line"


def test_a_solver_file_is_a_bundle_of_one_and_not_the_other_way(tmp_path: Path) -> None:
    SOLVERS[4].save(tmp_path / "solver.json")
    assert list(s4s.load_bundle(tmp_path / "solver.json")) == [4]
    BUNDLE.save(tmp_path / "bundle.json")
    with pytest.raises(s4s.Error, match=r"bundle.json: a bundle of solvers; take one of them: s4s.load_bundle"):
        s4s.load_solver(tmp_path / "bundle.json")


def test_show_prints_every_solver(tmp_path: Path) -> None:
    BUNDLE.save(tmp_path / "bundle.json")
    shown = CliRunner().invoke(cli, ["show", str(tmp_path / "bundle.json")])
    assert shown.exit_code == 0
    assert [line for line in shown.output.splitlines() if line.startswith("unipc2:")] == [
        f"unipc2: {nfe} evaluations, sigma 80 to 0.002" for nfe in (3, 4, 6)
    ]


@pytest.mark.parametrize(("change", "message"), [
    ({"schema": "x"}, "not an s4s-bundle, s4s-solver or s4s-solver-curve file"),
    ({"version": 2}, "bundle schema version 2 is not supported; this s4s reads 1"),
    ({"solvers": {}}, "'solvers' must be a list"),
    ({"solvers": []}, "a bundle needs at least one solver"),
    ({"solvers": [SOLVERS[3].to_dict()] * 2}, "two solvers of the bundle make the same number"),
    ({"solvers": [{}]}, "not an s4s-solver file"),
    ({"provenance": 3}, "'provenance' an object"),
])  # fmt: skip
def test_bad_files(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(s4s.Error, match=message):
        bundle_from_dict(BUNDLE.to_dict() | change)
    (tmp_path / "bundle.json").write_text(json.dumps(BUNDLE.to_dict() | change))
    with pytest.raises(s4s.Error, match=f"bundle.json: .*{message}"):
        s4s.load_bundle(tmp_path / "bundle.json")


@pytest.mark.parametrize(("solvers", "message"), [
    (SOLVERS[3], "a bundle is of numbers of evaluations and their solvers, {4: solver}, got a Solver"),
    ([SOLVERS[3]], "got a list"),
    ({3: None}, "a solver is needed, got a NoneType: make one with s4s.solver, or read one"),
    ({3: BUNDLE}, r"one solver is needed, got a Bundle: take that of a number of evaluations, such as bundle\[6\]"),
    ({"3": SOLVERS[3]}, "unipc2 makes 3 evaluations, but is in the bundle for '3'"),
])  # fmt: skip
def test_what_cannot_be_a_bundle(solvers: Any, message: str) -> None:
    with pytest.raises(s4s.Error, match=message):
        s4s.Bundle(solvers)


def test_a_record_that_cannot_be_saved_destroys_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    BUNDLE.save(path)
    before = path.read_bytes()
    for record in ({(1, 2): 3}, {1: 2, "a": 3}):
        for made in (s4s.Bundle(SOLVERS, record), SOLVERS[3].replace(provenance=record)):  # type: ignore[arg-type]
            with pytest.raises(s4s.Error, match="the record cannot be saved as JSON: "):
                made.save(path)
    assert path.read_bytes() == before
    with pytest.raises(s4s.Error, match="'provenance' an object, got a str and a NoneType"):
        s4s.Bundle(SOLVERS, None)  # type: ignore[arg-type]


def test_a_solver_under_another_number_is_refused() -> None:
    with pytest.raises(s4s.Error, match="unipc2 makes 3 evaluations, but is in the bundle for 4"):
        s4s.Bundle({4: SOLVERS[3]})
