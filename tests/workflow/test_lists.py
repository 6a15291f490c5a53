"""Lists of benchmarks, and the ablations of `snakemake paper`: each part is a run of the pipeline of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import ROOT, Commands
from whole_run import TINY


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The pipeline of a checkout whose path has a blank."""
    where = tmp_path / "a checkout"
    for name in ("workflow", "config"):
        shutil.copytree(ROOT / name, where / name)
    for name in ("Snakefile", "environment.yml"):
        shutil.copyfile(ROOT / name, where / name)
    return where / "Snakefile"


def test_a_list_sees_that_results_of_a_part_are_gone(rerun: Path, checkout: Path, commands: Commands) -> None:
    """Its part is run again, which makes what is gone; then there is nothing to be done."""
    (rerun / "list.yaml").write_text(f"benchmark: list\nparts: [{{config: {TINY}}}]\n")
    asked = ("-s", str(checkout), "--cores", "1")
    first = commands.s4s(rerun, "run", "list.yaml", *asked)
    log = rerun / "logs/list/tiny.log"
    assert first.returncode == 0, first.stderr + (log.read_text() if log.exists() else "")
    assert "Nothing to be done" in commands.s4s(rerun, "run", "list.yaml", *asked).stderr
    for name in ("tables/summary.md", "figures/samples.png", "report.html", "fid.csv"):
        (rerun / "results/tiny" / name).unlink()
    again = commands.s4s(rerun, "run", "list.yaml", *asked)
    assert again.returncode == 0 and (rerun / "results/tiny/tables/summary.md").exists(), again.stderr
    assert (rerun / "results/tiny/fid.csv").exists()
    assert "Nothing to be done" in commands.s4s(rerun, "run", "list.yaml", *asked).stderr
    (rerun / "results/list/kinds.md").unlink()
    assert "rule kinds" in commands.s4s(rerun, "run", "list.yaml", *asked, "-n").stdout


def test_the_paper_sees_that_the_ablations_are_gone(rerun: Path, checkout: Path, commands: Commands) -> None:
    """On results under the name of the digits: only the ablations are to be run again."""
    (rerun / "results/tiny").rename(rerun / "results/digits")
    (rerun / "results/digits/ablations").touch()
    asked = ["--configfile", str(TINY), "--config", "benchmark=digits", "--rerun-triggers", "mtime", "-n", "-p"]
    planned = commands.run(rerun, "snakemake", "-s", str(checkout), "paper", *asked)
    assert planned.returncode == 0, planned.stderr
    assert "rule ablations" in planned.stdout and "rule table" not in planned.stdout, planned.stdout
    config = checkout.parent / "config/ablations.yaml"
    assert f"s4s run '{config}' -s '{checkout}' --cores" in planned.stdout
