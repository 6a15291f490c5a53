"""Methods of one's own: a file each, in config, chain, tables and figures; and what `s4s check-method` misses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from click.testing import CliRunner
from commands import ROOT, Commands
from small import CONFIG, bench, learned, run, teach, train

import s4s
from s4s import report
from s4s.cli.main import cli
from s4s.learn.methods import METHODS
from s4s.report.data import read_records, scores, to_frame
from s4s.report.table import fid_table
from s4s.stages.cells import cells
from s4s.stages.evaluate import evaluate_cell
from s4s.stages.fit import fit_cell
from s4s.stages.own import Sampler, load_method, samples
from s4s.stages.sample import sample_cell
from s4s.stages.verify import report as verify

EULER = '''"""Euler, written out."""
import s4s

def sample(x_T, denoise, process, nfe):
    sigma, x = s4s.grid("edm", process, nfe).to(x_T), x_T
    for s, s_next in zip(sigma[:-1], sigma[1:]):
        x = x + (s_next - s) * (x - denoise(x, s)) / s
    return x
'''
NUMBERS = '''"""Numbers of DDIM."""
import s4s

def solver(process, nfe):
    return s4s.solver("ddim", s4s.grid("edm", process, nfe))
'''
FIT = '''"""Keeps its start."""

def fit(start, denoise, teacher, seed):
    return start
'''
OWN = {"methods": ["euler", "numbers"], "learned": {"methods": ["s4s", "kept"]}}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("methods").mkdir()
    for name, text in {"euler": EULER, "numbers": NUMBERS, "kept": FIT}.items():
        Path("methods", f"{name}.py").write_text(text)
    return tmp_path


def test_files_of_every_kind_go_through_every_stage(here: Path) -> None:
    run(made := bench(**OWN))
    names = [cell.name for cell in cells(made.config)]
    assert names[2:] == ["euler_nfe2", "numbers_nfe2", "s4s_ddim_edm_nfe2_seed0", "kept_ddim_edm_nfe2_seed0"]
    files = [made.folder.metrics(cell) for cell in cells(made.config)]
    records = {record["cell"]: record for record in read_records(files)}
    ddim = records["classical_ddim_edm_nfe2"]["fid"]
    assert records["numbers_nfe2"]["fid"] == records["kept_ddim_edm_nfe2_seed0"]["fid"] == ddim
    assert records["euler_nfe2"]["fid"] == pytest.approx(ddim, rel=1e-3)
    assert records["euler_nfe2"]["method_file"]["sha256"] == s4s.files.sha256(Path("methods/euler.py"))
    kept = records["kept_ddim_edm_nfe2_seed0"]
    assert kept["val_loss"] == json.loads(made.folder.fit(cells(made.config)[-1]).read_text())["start_loss"] > 0
    table = fid_table(scores(to_frame(read_records(files))), read_records(files))
    assert {row[0].text for group in table.groups for row in group} >= {"euler", "numbers", "kept", "S4S"}
    choice = report.choose(files)
    assert list(choice.cells) == ["teacher", "classical", "s4s", "euler", "kept", "numbers"]
    report.draw_fid(files, here / "fid")
    report.draw_solvers(choice, made.folder.root / "solvers", here / "solvers")
    report.draw_samples(choice, made.folder.root / "features", here / "samples")
    assert verify(made.folder.root)[1]
    with pytest.raises(s4s.Error, match=r"a rising range of indices from 0 on, got range\(9, 9\)"):
        sample_cell(made, cells(made.config)[2], 9, 9)
    Path("methods/euler.py").write_text(EULER + "\n")
    lines, follows = verify(made.folder.root)
    assert (
        not follows
        and len(lines) == 2
        and "solvers/euler_nfe2.json: made from" in lines[0]
        and "methods/euler.py" in lines[0]
    )
    with pytest.raises(s4s.Error, match=r"euler_nfe2.json: made from .*methods/euler.py with SHA-256"):
        evaluate_cell(made, cells(made.config)[2])


def test_calls_under_conditions_are_counted(here: Path) -> None:
    """A fit of one's own is given the function of conditions where a model has some."""
    asks = "    denoise(teacher.condition)(teacher.x_T, start.sigma[0])\n"
    Path("methods/kept.py").write_text(FIT.replace("    return", 2 * asks + "    return"))
    made = bench(model={"classes": "uniform", "guidance": 2.0}, learned={"methods": ["kept"]})
    train(made)
    teach(made)
    fit_cell(made, learned(made))
    spent = json.loads(made.folder.fit(learned(made)).read_text())
    assert spent["evaluations"] == 2 * made.config["teacher"]["train"]


@pytest.mark.parametrize(("text", "said"), [
    ("", "holds none of the functions sample, solver, fit; write one"),
    ("def sample(x): ...", "sample(x) must be sample(x_T, denoise, process, nfe)"),
    ("import nothing_of_that_name", "methods/bad.py:1: cannot be imported: ModuleNotFoundError: No module"),
    ("X = 1\nY = X / 0", "methods/bad.py:2: cannot be imported: ZeroDivisionError: division by zero"),
    ("def sample(x)\n", "methods/bad.py:1: cannot be imported: SyntaxError: expected ':'"),
    ("\nraise SyntaxError", "methods/bad.py:2: cannot be imported: SyntaxError"),
    ("import sys\n\nsys.exit(3)", "methods/bad.py:3: cannot be imported: SystemExit: 3"),
    ("sample = int", "methods/bad.py: sample(...) must be sample(x_T, denoise, process, nfe)"),
    ("def sample(x_T, denoise, process, nfe):\n    return f(x_T)\n\ndef f(x):\n    return x[99:][0]",
     "methods/bad.py:5: sample: IndexError: index 0 is out of bounds"),
    ("import s4s\ndef solver(process, nfe):\n    return s4s.solver('ipndm3', s4s.grid('edm', process, nfe))",
     "methods/bad.py:3: solver: unknown solver 'ipndm3'; choose one of: ddim"),
    ("def fit(start, denoise, teacher, seed):\n    raise ValueError('two\\nlines')",
     "methods/bad.py:2: fit: ValueError: two lines"),
    ("def fit(start, denoise, teacher, seed):\n    assert seed", "methods/bad.py:2: fit: AssertionError"),
    (EULER.replace("nfe).to", "nfe + 1).to"), "it calls the network more than nfe = 4 times"),
    (EULER.replace("return x", "return x[:1]"), "sample returned [1, 1, 4, 4]; it must return samples shaped as x_T"),
    (EULER.replace("return x", "return x / 0"), "its samples with 4 evaluations are not finite"),
    (EULER.replace("x_T\n", "x_T\n    import torch; x = x + torch.rand(())\n"), "samples depend on the call"),
    (EULER.partition("\n")[2], "a docstring of the file"),
    (NUMBERS.replace("nfe))", "nfe + 1))"), "solver returned a solver of 5 evaluations, asked for 4"),
    (FIT.replace("start\n", "seed\n"), "fit returned int; it must return an s4s.Solver"),
])  # fmt: skip
def test_what_is_missing_is_said(here: Path, text: str, said: str) -> None:
    Path("methods/bad.py").write_text(text)
    done = CliRunner().invoke(cli, ["check-method", "methods/bad.py"])
    assert done.exit_code == 1 and said in done.output, done.output


def test_the_name_of_a_built_in_method_is_taken(here: Path) -> None:
    Path("methods/ld3.py").write_text(FIT)
    done = CliRunner().invoke(cli, ["check-method", "methods/ld3.py"])
    assert done.exit_code == 1 and "missing  ld3 is the name of a built-in method; rename the file" in done.output


def test_the_shipped_file_runs_diffusers_and_agrees_with_our_solver() -> None:
    pytest.importorskip("diffusers")
    path, process, nfe = ROOT / "methods" / "diffusers_dpmpp.py", s4s.EDM(), 6
    done = CliRunner().invoke(cli, ["check-method", str(path)])
    assert done.exit_code == 0 and "calls the network 8 times" in done.output, done.output
    denoise = lambda x, sigma: x / (1 + torch.as_tensor(sigma).to(x).reshape(-1, 1, 1, 1) ** 2)
    x_T = s4s.noise(0, range(4), (1, 3, 3)).float() * process.sigma_max
    theirs = samples(Sampler(load_method(path), nfe), denoise, x_T, process)
    ours = s4s.sample(s4s.solver("dpmpp", s4s.grid("logsnr", process, nfe), order=2), denoise, x_T)
    assert torch.allclose(theirs, ours, rtol=1e-4, atol=1e-5)


def test_snakemake_asks_for_them_and_names_what_is_not_there(here: Path, commands: Commands) -> None:
    made = json.loads(json.dumps(CONFIG)) | {"methods": ["euler"]}
    made["learned"]["methods"] = ["kept"]
    Path("config.yaml").write_text(yaml.safe_dump(made))
    done = commands.snakemake(here, "--configfile", "config.yaml", "-n", "--printshellcmds")
    assert "features_euler" in done.stdout and "kept_ddim_edm_nfe2_seed0" in done.stdout, done.stdout + done.stderr
    Path("methods/kept.py").unlink()
    done = commands.snakemake(here, "--configfile", "config.yaml", "-n")
    said = f"unknown method 'kept'; choose one of: {', '.join(sorted([*METHODS, 's4s-any']))}; or write methods/kept.py"
    assert said in done.stdout + done.stderr
    refused = CliRunner().invoke(cli, ["cells", "config.yaml"])
    assert said in str(refused.exception)


def test_settings_that_a_file_does_not_take_are_refused() -> None:
    with pytest.raises(s4s.Error, match=r"kept, of a file of your own, takes no order; leave it out"):
        bench(learned={"methods": [{"name": "kept", "order": 2}]})
    with pytest.raises(s4s.Error, match=r"methods.0"):
        bench(methods=["s4s"])
