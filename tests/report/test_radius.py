"""Loss against the radius of the relaxed objective: the value, the cells of a list of radii, and the figure."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from made_up import Results
from problems import Gaussian
from published import scaled
from published import world as world

import s4s
from s4s import report
from s4s.learn.distances import distance
from s4s.learn.frozen import Frozen
from s4s.learn.relaxed import descend, relaxed_distances
from s4s.stages import cells as asked
from s4s.stages import config
from s4s.stages.bench import Bench
from s4s.stages.download import download_model
from s4s.stages.evaluate import evaluate_cell
from s4s.stages.fit import fit_cell
from s4s.stages.sample import sample_cell
from s4s.stages.teacher import make_teacher

ROOT = Path(__file__).parents[2]


def test_relaxed_distances_of_a_linear_problem() -> None:
    """Student and teacher scale noises by a and b: x moves by (b - a) x / a, or as far towards it as the ball lets."""
    process, net = s4s.EDM(0.01, 20.0), Gaussian(0.7).denoise
    solver = s4s.solver("ddim", s4s.grid("edm", process, 3))
    x_T = 20 * s4s.noise(0, range(64), (5,))
    one = torch.ones(1, 5, dtype=torch.float64)
    a, b = s4s.sample(solver, net, one)[0, 0].item(), 1.1 * s4s.sample(solver, net, one)[0, 0].item()
    pairs, d, last = s4s.TeacherSet(b * x_T, 0, 20.0), distance("l2"), None
    for reach in (0.0, 0.5, 2.0, 100.0):
        found = relaxed_distances(solver, Frozen(net, 10), pairs, d, reach, steps=40)
        missing = ((b - a) / a * x_T.norm(dim=1) - reach).clamp(min=0)
        torch.testing.assert_close(found, (a * missing) ** 2 / 5, rtol=1e-6, atol=1e-6)
        assert last is None or (found <= last + 1e-6).all(), "a larger ball never hurts"
        last = found
    assert torch.equal(relaxed_distances(solver, Frozen(net), pairs, d, 0.0), d(s4s.sample(solver, net, x_T), b * x_T))


def test_descent_stays_in_the_ball() -> None:
    shift, slope = torch.randn(50, 3, 4), torch.randn(50, 3, 4)
    slope[7] = torch.nan
    slope[8] = 0
    moved = descend(shift, slope, 0.3)
    assert (moved.flatten(1).norm(dim=1) <= 0.3 * (1 + 1e-6)).all() and moved.isfinite().all()
    assert torch.allclose(descend(torch.zeros(1, 4), torch.ones(1, 4), 2.0, 0.5), -torch.full((1, 4), 0.5))


def test_a_list_of_radii_makes_a_cell_of_each() -> None:
    loaded = config.load(ROOT / "config" / "digits-radius.yaml")
    radii = loaded["learned"]["radius"]
    learned = [cell for cell in asked.cells(loaded) if cell.learned]
    assert len(learned) == len(radii) * 2 * 2 and len({cell.name for cell in learned}) == len(learned)
    assert [asked.radius_of(loaded, cell) for cell in learned[: len(radii)]] == radii
    assert learned[1].name == "s4s_ipndm3_edm_nfe4_r0.003_seed0"
    other = {**loaded, "learned": loaded["learned"] | {"radius": [*radii, 1.0]}}
    assert asked.made_from(other, "fit") == asked.made_from(loaded, "fit"), "one more radius leaves the other fits"
    plain = config.check({**loaded, "learned": loaded["learned"] | {"radius": 0.1}})
    assert {asked.radius_of(plain, cell) for cell in asked.cells(plain)} == {0.1}
    assert asked.made_from(plain, "fit")["radius"] == 0.1


def test_stages_measure_the_relaxed_loss(world: tuple[Path, str]) -> None:
    made = scaled("ffhq", *world, Path("none"))
    made["learned"] |= {"distance": "l2", "radius": [0.0, 0.05], "starts": made["learned"]["starts"][:1]}
    bench = Bench(config.check(made), Path("results"))
    download_model(bench)
    (teacher,) = asked.teachers(bench.config)
    for first, last in asked.teacher_files(bench.config, teacher).values():
        make_teacher(bench, teacher, first, last)
    learned = [cell for cell in asked.cells(bench.config) if cell.learned]
    for cell in learned:
        fit_cell(bench, cell)
    spent = [json.loads(bench.folder.fit(cell).read_text()) for cell in learned]
    assert spent[0]["relaxed_loss"] == pytest.approx(spent[0]["val_loss"], rel=1e-5)
    assert spent[1]["relaxed_loss"] < spent[1]["val_loss"]
    assert json.loads(bench.folder.solver(learned[1]).read_text())["provenance"]["radius"] == 0.05
    for first, last in asked.shards(bench.config):
        sample_cell(bench, learned[1], first, last)
    record = json.loads(evaluate_cell(bench, learned[1]).read_text())
    assert record["radius"] == 0.05 and record["relaxed_loss"] == spent[1]["relaxed_loss"]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    made = Results(tmp_path, "digits-radius")
    made.add("teacher", "dpmpp3", "logsnr", 40, 1.9)
    for nfe in (4, 6):
        made.add("classical", "ipndm3", "edm", nfe, 90 / nfe)
        for method, radius in (("s4s", 0.0), ("s4s", 0.05), ("s4s-alt", 0.0), ("s4s-alt", 0.05)):
            more: dict[str, Any] = {"radius": radius, "relaxed_loss": 0.5 / nfe - radius}
            more["cell"] = f"{method}_nfe{nfe}_r{radius:g}"
            made.add(method, "ipndm3", "edm", nfe, 40 / nfe + radius, **more)
    return made


def test_the_figure_and_the_tables_tell_the_radii_apart(results: Results) -> None:
    png, pdf = report.draw_radius(results.metrics, results.root / "radius")
    assert png.read_bytes()[:4] == b"\x89PNG" and pdf.read_bytes()[:4] == b"%PDF"
    frame = report.collect(results.metrics)
    report.write_fid_csv(frame, results.root / "fid.csv")
    with (results.root / "fid.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[-1] == "radius" and [row["radius"] for row in rows].count("0.05") == 4
    report.write_tables(results.metrics, results.root / "tables")
    table = (results.root / "tables" / "fid.md").read_text()
    assert "S4S (r = 0)" in table and "S4S-Alt (r = 0.05)" in table
    with (results.root / "tables" / "fid.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(results.metrics)


def test_without_radii_there_is_no_figure(tmp_path: Path) -> None:
    made = Results(tmp_path)
    made.add("classical", "ipndm3", "edm", 4, 9.0)
    with pytest.raises(s4s.Error, match=r"no cell names its radius; give learned\.radius as a list"):
        report.draw_radius(made.metrics, tmp_path / "none")
