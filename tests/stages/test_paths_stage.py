"""How far solvers are from the teacher along their steps; and the race of starts that an entry can leave out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from small import bench, teach, textbook, train

from s4s.cli.main import cli
from s4s.learn.teacher import generate
from s4s.stages import written
from s4s.stages.bench import Bench
from s4s.stages.cells import cells, teachers
from s4s.stages.fit import fit_cell, solver_of


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.chdir(tmp_path)
    entries: list[Any] = [{"name": "ld3"}, {"name": "ld3", "race": False}]
    built = bench(learned={"methods": entries}, nfe=[3])
    train(built)
    teach(built)
    for cell in cells(built.config):
        fit_cell(built, cell)
    return built


def test_the_last_distance_is_that_of_the_samples_and_the_first_is_none(made: Bench) -> None:
    written.save(made.config, "small.yaml")
    done = CliRunner().invoke(cli, ["paths", "small.yaml"], catch_exceptions=False)
    assert done.output == "results/small/paths.json\n"
    found = json.loads(Path("results/small/paths.json").read_text())
    few = [cell.name for cell in cells(made.config) if cell.method != "teacher"]
    assert found["noises"] == 100 and [*found["cells"]] == few
    ends = []
    for solver in (solver_of(made, textbook(made)), made.textbook(teachers(made.config)[0])):
        ends.append(generate(solver, made.denoiser, range(100), made.model.shape, made.config["sample"]["seed"]))
    course = found["cells"][textbook(made).name]
    assert course["distance"][0] == 0 and len(course["sigma"]) == len(course["distance"]) == 4
    assert course["distance"][-1] == pytest.approx((ends[0] - ends[1]).square().mean().sqrt().item(), rel=1e-5)
    assert made.chain.follows(Path("results/small/paths.json"))


def test_a_fit_without_a_race_begins_at_its_start_alone(made: Bench) -> None:
    raced, alone = ({each["start"] for each in json.loads(made.folder.fit(cell).read_text())["raced"]}
                    for cell in cells(made.config) if cell.learned)  # fmt: skip
    assert alone == {"ddim"} and len(raced) > 1
