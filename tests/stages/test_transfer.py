"""``s4s evaluate --solver``: a solver from elsewhere, scored as the config's own cells are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from published import scaled
from published import world as world

import s4s
from s4s.cli.main import main
from s4s.stages import config
from s4s.stages.bench import Bench
from s4s.stages.cells import cells
from s4s.stages.download import download_model
from s4s.stages.evaluate import evaluate_cell
from s4s.stages.fit import fit_cell
from s4s.stages.sample import sample_cell
from s4s.stages.transfer import evaluate_solver


def bench_of(world: tuple[Path, str], name: str) -> Bench:
    made = scaled(name, *world, Path("none"))
    made["learned"]["distance"] = "l2"
    return Bench(config.check(made), Path("results"))


@pytest.mark.parametrize("name", ["ffhq", "imagenet256"])
def test_a_solver_file_scores_as_its_own_cell_does(world: tuple[Path, str], name: str) -> None:
    bench = bench_of(world, name)
    download_model(bench)
    chosen = next(cell for cell in cells(bench.config) if cell.method == "classical")
    fit_cell(bench, chosen)
    for first, last in ((0, 15), (15, 30), (30, 40)):
        sample_cell(bench, chosen, first, last)
    own = json.loads(evaluate_cell(bench, chosen).read_text())
    moved = Path("elsewhere.json")
    moved.write_bytes(bench.folder.solver(chosen).read_bytes())
    path, made = evaluate_solver(bench, moved)
    assert path.parent == bench.folder.root / "transfers" and path.name.startswith("elsewhere-")
    assert json.loads(path.read_text()) == json.loads(json.dumps(made))
    assert made["fid"] == own["fid"] and made["protocol"] == own["protocol"] and made["nfe"] == chosen.nfe
    assert made["solver_provenance"]["solver"] == chosen.solver
    if name == "imagenet256":  # the same weights under another guidance
        more = Bench(
            bench.config | {"benchmark": "more", "model": bench.config["model"] | {"guidance": 4.0}}, Path("results")
        )
        download_model(more)
        _, other = evaluate_solver(more, moved)
        assert other["fid"] != own["fid"] and other["protocol"]["guidance"] == 4.0


def test_bad_solver_files_are_one_line(world: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    bench = bench_of(world, "ffhq")
    download_model(bench)
    Path("config.yaml").write_text(yaml.safe_dump(bench.config))
    s4s.solver("ddim", s4s.grid("edm", s4s.EDM(0.01, 20.0), 4)).save("other.json")
    s4s.solver("ddim", s4s.grid("edm", s4s.EDM(1e-5, 80.0), 4), [80.0, 9.0, 0.5, 1e-4]).save("low.json")
    s4s.curve(lambda nfe: s4s.solver("ddim", s4s.grid("edm", s4s.EDM(), nfe))).save("curve.json")
    Path("half.json").write_text(Path("other.json").read_text()[:90])
    for arguments, message in (
        (["--solver", "none.json"], "none.json: cannot read the solver file"),
        (["--solver", "half.json"], "half.json: not a solver file, or a truncated one"),
        (["--solver", "other.json"], "other.json: starts at noise level 20 and evaluates down to"),
        (["--solver", "low.json"], "evaluates down to 0.0001; the model of this config has 80 to 0.002: fit a solver"),
        (["--solver", "curve.json"], "curve.json: has solvers of 3 to 20 evaluations; give --nfe, one of them"),
        (["--solver", "curve.json", "--nfe", "2"], "curve.json: no solver makes 2 evaluations here"),
        (["--nfe", "4", "teacher"], "--nfe belongs to --solver"),
        (["--polish", "teacher"], "--polish belongs to --solver"),
        (["--solver", "other.json", "teacher"], "takes either cells or --solver FILE"),
        ([], "takes either cells or --solver FILE"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit):
            main(["evaluate", "config.yaml", *arguments])
        line = capsys.readouterr().err
        assert message in line and line.count("\n") == 1
    assert not (bench.folder.root / "transfers").exists()


def test_the_command_prints_one_row(world: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    bench = bench_of(world, "ffhq")
    download_model(bench)
    Path("config.yaml").write_text(yaml.safe_dump(bench.config))
    s4s.solver("ipndm", s4s.grid("edm", s4s.EDM(), 4), order=2).save("mine.json")
    s4s.curve(lambda nfe: s4s.solver("ipndm", s4s.grid("edm", s4s.EDM(), nfe), order=2)).save("curve.json")
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", "config.yaml", "--solver", "mine.json"])
    row, path = capsys.readouterr().out.splitlines()
    made = json.loads(Path(path).read_text())
    assert row == f"ipndm2  4 NFE  {made['fid_label']} {made['fid']:.2f}"
    with pytest.raises(SystemExit, match="0"):
        main(["evaluate", "config.yaml", "--solver", "curve.json", "--nfe", "4"])
    row, path = capsys.readouterr().out.splitlines()
    assert row == f"ipndm2-curve  4 NFE  {made['fid_label']} {made['fid']:.2f}"
    assert Path(path).name.startswith("curve-nfe4-")
