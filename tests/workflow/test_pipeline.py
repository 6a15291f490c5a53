"""The command line, and the pipeline on a tiny config: what a user sees, from the first run to a broken one."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from commands import ROOT, Commands
from whole_run import TINY

from s4s.cli.main import cli, main
from s4s.stages.verify import report as verified

S4S_ALT = "s4s-alt_ipndm3_edm_nfe4_seed0"


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Its results in another folder."""
    shutil.copytree(finished / "results", tmp_path / "results")
    return tmp_path


def test_a_run_ends_with_every_result(finished: Path) -> None:
    folder = finished / "results" / "tiny"
    with (folder / "fid.csv").open() as file:
        rows = list(csv.DictReader(file))
    header = "benchmark,method,solver,schedule,family,order,nfe,seed,fid,n_samples,val_loss,fit_seconds,fit_nfe"
    assert ",".join(rows[0]) == header + ",sample_seconds,metrics_file"
    assert [row["method"] for row in rows].count("classical") == 2
    assert all(float(row["fid"]) > 0 for row in rows) and len(rows) == 7
    families = {(row["method"], row["solver"], row["family"], row["order"]) for row in rows if row["family"]}
    assert families >= {("s4s", "ipndm3", "pc", "2"), ("s4s-alt", "ddim", "ss", "2"), ("s4s", "ipndm3", "lms", "3")}
    for name in ("tables/fid.md", "tables/fid.tex", "figures/fid_vs_nfe.png", "figures/samples.pdf", "report.html"):
        assert (folder / name).stat().st_size > 0
    record = json.loads((folder / "metrics" / f"{S4S_ALT}.json").read_text())
    assert len(record["protocol"]["weights_sha256"]) == 64 and len(record["protocol"]["reference_sha256"]) == 64
    assert record["provenance"]["versions"]["torch"] and record["fid_label"] == "FID@200"
    assert not list(folder.rglob(".*")), "temporary files were left behind"


def test_a_second_run_does_nothing(rerun: Path, commands: Commands) -> None:
    again = commands.snakemake(rerun, "--configfile", str(TINY))
    assert "Nothing to be done" in again.stdout + again.stderr
    assert "workflow specific profile" in again.stderr and "profiles/default" in again.stderr, "it is found unasked"


def test_missing_and_truncated_tables_figures_and_pages_are_made_again(rerun: Path, commands: Commands) -> None:
    folder = rerun / "results/tiny"
    (folder / "tables/summary.md").unlink()
    (folder / "figures/samples.pdf").unlink()
    truncated = [folder / name for name in ("figures/fid_vs_nfe.png", "tables/fid.tex", "report.html")]
    for path in truncated:
        os.truncate(path, 100)
    for each in ("rule figure", "Nothing to be done"):
        again = commands.snakemake(rerun, "--configfile", str(TINY))
        assert again.returncode == 0 and each in again.stdout + again.stderr, again.stderr
    assert (folder / "tables/summary.md").exists() and (folder / "figures/samples.pdf").exists()
    assert all(path.stat().st_size > 100 for path in truncated)
    assert verified(folder)[1]
    for path in truncated:
        os.truncate(path, 100)
        again = commands.snakemake(rerun, "--configfile", str(TINY))
        assert again.returncode == 0 and path.stat().st_size > 100, again.stderr


def changed(where: Path, old: str, new: str) -> str:
    """A copy of the tiny config with one value changed."""
    text = TINY.read_text()
    assert text.count(old) == 1
    (where / "changed.yaml").write_text(text.replace(old, new))
    return str(where / "changed.yaml")


def test_a_changed_value_reruns_only_what_depends_on_it(rerun: Path, tmp_path: Path, commands: Commands) -> None:
    config = changed(tmp_path, "rounds: 1", "rounds: 2")
    plan = commands.snakemake(rerun, "--configfile", config, "-n").stdout
    assert "rule fit" in plan and "rule sample_learned" in plan and "rule features_learned" in plan
    for untouched in ("rule train", "rule teacher", "rule sample_classical", "rule features_classical", "textbook"):
        assert untouched not in plan, untouched
    again = commands.snakemake(rerun, "--configfile", str(TINY))
    assert "Nothing to be done" in again.stdout + again.stderr, "a dry run of another config leaves no trace"


def test_samples_have_the_same_bits_in_any_shards(copied: Path, commands: Commands) -> None:
    for first, last in ((0, 130), (130, 137), (137, 200)):
        done = commands.s4s(copied, "sample", str(TINY), S4S_ALT, "--first", str(first), "--last", str(last))
        assert done.returncode == 0, done.stderr
    folder = copied / "results" / "tiny" / "samples" / S4S_ALT
    shards = [np.load(folder / f"{a:06d}-{b:06d}.npz")["images"] for a, b in ((0, 130), (130, 137), (137, 200))]
    assert np.array_equal(np.concatenate(shards), np.load(folder / "000000-000200.npz")["images"])


def test_a_fit_has_the_same_bytes_again(copied: Path) -> None:
    """In a process of its own, not a fork as the others."""
    path = copied / "results" / "tiny" / "solvers" / f"{S4S_ALT}.json"
    before = path.read_bytes()
    path.unlink()
    subprocess.run([sys.executable, "-m", "s4s", "fit", str(TINY), S4S_ALT], cwd=copied, check=True)
    assert path.read_bytes() == before


def test_jobs_find_their_program_by_themselves(finished: Path, tmp_path: Path) -> None:
    """Its folder is not in the PATH of this Snakemake, and no process is a fork."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--configfile", str(TINY)]
    path = os.pathsep.join(p for p in os.environ["PATH"].split(os.pathsep) if not (Path(p) / "s4s").exists())
    environment = os.environ | {"PATH": path}
    done = subprocess.run([*command, "--cores", "1", "textbook"], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr
    made, expected = (sorted(where.glob("results/tiny/solvers/classical_*")) for where in (tmp_path, finished))
    assert [path.read_bytes() for path in made] == [path.read_bytes() for path in expected] and made


KILLED = """
import os, signal
from itertools import count
from s4s.cli.main import main
from s4s.learn.run import Run
save, saves = Run.save, count(1)
Run.save = lambda run: (save(run), next(saves) == 40 and os.kill(os.getpid(), signal.SIGKILL))
main()
"""


def test_a_killed_fit_goes_on(copied: Path, commands: Commands) -> None:
    """Killed by the system after a round, in the middle of another; then once more from the start."""
    config, folder = changed(copied, "rounds: 1", "rounds: 4"), copied / "results" / "tiny"
    unfinished, fit = folder / "fits" / f"{S4S_ALT}.unfinished.safetensors", ["fit", config, S4S_ALT]
    job = subprocess.run([sys.executable, "-c", KILLED, *fit], cwd=copied, stderr=subprocess.DEVNULL)
    assert job.returncode == -9 and unfinished.exists()
    results = []
    for _ in range(2):
        done = commands.s4s(copied, *fit)
        assert done.returncode == 0 and not unfinished.exists(), done.stderr
        spent = json.loads((folder / "fits" / f"{S4S_ALT}.json").read_text())
        results.append(((folder / "solvers" / f"{S4S_ALT}.json").read_bytes(), spent["history"], spent["evaluations"]))
    assert results[0] == results[1]


def test_a_fit_left_by_another_config_starts_anew(copied: Path, commands: Commands) -> None:
    left = copied / "results" / "tiny" / "fits" / f"{S4S_ALT}.unfinished.safetensors"
    left.write_bytes(b"half a fi")
    done = commands.s4s(copied, "fit", str(TINY), S4S_ALT)
    notices = [line for line in done.stderr.splitlines() if "starts anew" in line]
    assert done.returncode == 0 and len(notices) == 1 and not left.exists()
    assert notices[0].endswith(": of another config, or of files that have changed; this fit starts anew")


def test_show_prints_grid_and_weights(finished: Path, commands: Commands) -> None:
    shown = commands.s4s(finished, "show", f"results/tiny/solvers/{S4S_ALT}.json").stdout
    assert re.match(r"s4s-alt\(\w+\): 4 evaluations, sigma 80 to 0.002\n", shown)
    assert "evaluated at" in shown and "D[3]" in shown


def test_results_of_another_config_are_refused(copied: Path, commands: Commands) -> None:
    config = changed(copied, " steps: 60", " steps: 61")
    path = copied / "results" / "tiny" / "solvers" / f"{S4S_ALT}.json"
    before = path.read_bytes()
    refused = commands.s4s(copied, "fit", config, S4S_ALT)
    assert refused.returncode == 1
    assert "made from another config (model.steps = 60 there, 61 in this one)" in refused.stderr
    assert refused.stderr.count("\n") == 1 and path.read_bytes() == before


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
@pytest.mark.parametrize("victim", [f"solvers/{S4S_ALT}.json", "models/denoiser.safetensors", f"samples/{S4S_ALT}"])
def test_truncated_files_are_one_line(copied: Path, victim: str, share: float, commands: Commands) -> None:
    path = copied / "results" / "tiny" / victim
    path = next(path.glob("*.npz")) if path.is_dir() else path
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    command = "features" if victim.startswith("samples") else "sample"
    refused = commands.s4s(copied, command, str(TINY), S4S_ALT)
    assert refused.returncode == 1
    assert refused.stderr.strip().splitlines()[-1].startswith("s4s: ") and "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "none.yaml", "x"], "s4s: none.yaml: cannot read the config: No such file or directory"),
        (["fit", str(TINY), "s4s_x"], "s4s: no cell 's4s_x' in benchmark 'tiny'; `s4s cells CONFIG` lists them"),
        (["teacher", str(TINY)], "denoiser.safetensors: cannot read it (no such file); run `s4s train` first"),
        (["show", str(TINY)], "not a solver file"),
        (["evaluate", str(TINY), S4S_ALT], "cannot read"),
    ],
)
def test_errors_are_one_line(arguments: list[str], message: str, tmp_path: Path, commands: Commands) -> None:
    refused = commands.s4s(tmp_path, *arguments)
    assert refused.returncode == 1
    assert message in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir()), "nothing is written"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("nfe: [4]", "nfe: [0]", "nfe.0: 0 is less than the minimum of 1"),
        ("nfe: [4]", "nfee: [4]", "unknown key 'nfee'; choose one of: benchmark"),
        ("[{name: ddim}", "[{name: euler}", "'euler' is not possible; choose one of: ddim"),
    ],
)
def test_a_typo_stops_the_workflow_before_any_work(
    tmp_path: Path, old: str, new: str, message: str, commands: Commands
) -> None:
    refused = commands.snakemake(tmp_path, "--configfile", changed(tmp_path, old, new))
    assert refused.returncode != 0
    assert message in refused.stdout + refused.stderr
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "results").exists()


def test_every_rule_is_one_command_of_ours() -> None:
    for path in sorted((ROOT / "workflow" / "rules").glob("*.smk")):
        lines = path.read_text().splitlines()
        for n, line in enumerate(lines):
            if line.strip() == "shell:":
                assert lines[n + 1].strip().startswith('"s4s '), f"{path.name}:{n + 2}"


def test_help_of_every_command_has_an_example() -> None:
    for name in sorted(cli.commands):
        shown = CliRunner().invoke(cli, [name, "--help"])
        assert shown.exit_code == 0 and f"Example: s4s {name} " in " ".join(shown.output.split())


def test_main_reports_errors_without_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["show", "missing.json"])
    assert caught.value.code == 1
    assert capsys.readouterr().err == "s4s: missing.json: cannot read the solver file: No such file or directory\n"


def test_the_cluster_profile_resolves(rerun: Path, commands: Commands) -> None:
    profile = str(ROOT / "workflow" / "profiles" / "slurm")
    planned = commands.snakemake(rerun, "--configfile", str(TINY), "-n", "--workflow-profile", profile, "--forceall")
    assert planned.returncode == 0, planned.stderr
    assert "rule fit" in planned.stdout
