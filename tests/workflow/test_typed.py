"""Snakemake as people type it: values on the command line, other folders, stages by name, reports, copies."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from commands import ROOT, Commands
from whole_run import TINY

from s4s.stages.cells import cells
from s4s.stages.config import check, load

STAGES = ("train", "teacher", "textbook", "fit", "sample", "features", "evaluate", "paths", "table", "figure")
QUIET = ("-n", "-q", "rules")


def jobs(output: str) -> dict[str, int]:
    """Snakemake's table of jobs: rule -> how many."""
    return {rule: int(n) for rule, n in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)}


def test_values_change_those_of_the_default(tmp_path: Path, commands: Commands) -> None:
    """Without --configfile, from a folder that is not the Snakefile's, with numbers inside mappings and lists."""
    given = ["benchmark=mine", "sample={n: 300, keep_images: false}", "nfe=[4,6]", "learned={rounds: 2, seeds: [0, 1]}"]
    planned = commands.snakemake(tmp_path, *QUIET, "--config", *given)
    assert planned.returncode == 0, planned.stdout + planned.stderr
    default = load(ROOT / "config" / "digits.yaml")
    default["nfe"], default["learned"]["seeds"] = [4, 6], [0, 1]
    learned = [cell for cell in cells(check(default)) if cell.learned]
    found = jobs(planned.stdout + planned.stderr)
    assert found["fit"] == len(learned) == 24 and "sample_learned" not in found


def test_values_change_those_of_a_configfile(rerun: Path, tmp_path: Path, commands: Commands) -> None:
    """What they mean is in the config that every command reads; what they touch runs again, and nothing else."""
    file = ("--configfile", str(TINY))
    again = commands.snakemake(rerun, *QUIET, *file, "--config", "learned={rounds: 1}", "nfe=[4]")
    assert "Nothing to be done" in again.stdout + again.stderr, "the same values, as text"
    planned = commands.snakemake(rerun, *QUIET, *file, "--config", "learned={rounds: 2}")
    assert {"fit", "evaluate_learned", "table"} <= jobs(planned.stdout + planned.stderr).keys() <= {
        "fit", "sample_learned", "sample_learned_s4s_alt_ss2", "features_learned", "features_learned_s4s_alt_ss2",
        "evaluate_learned", "evaluate_learned_s4s_alt_ss2", "paths", "table", "figure", "all", "total"}  # fmt: skip
    new = tmp_path / "new"
    new.mkdir()
    done = commands.snakemake(new, *file, "--config", "model={steps: 1, classifier_steps: 1.0e+0}", "benchmark=new",
                              "--", "results/new/models/features.safetensors")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    saved = yaml.safe_load((new / "results" / "new" / "config.yaml").read_text())
    assert saved["model"] | {"steps": 1, "classifier_steps": 1, "type": "digits"} == saved["model"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("sample={n: many}", "sample.n: 'many' is not possible; it takes a whole number"),
        ("sample={m: 3}", "sample: unknown key 'm'; choose one of: keep_images, n"),
        ("sample={seed: 100}", "sample.seed: 100 is teacher.seed too"),
        ("nfe=[4, 4.0]", "4 stands twice"),
        ("process={sigma_max: nan}", "process.sigma_max: nan is no number"),
    ],
)
def test_values_that_cannot_be_are_one_line(tmp_path: Path, commands: Commands, given: str, message: str) -> None:
    refused = commands.snakemake(tmp_path, "-n", "--config", given)
    said = refused.stdout + refused.stderr
    assert refused.returncode == 1 and message in said and "Traceback" not in said
    assert not (tmp_path / "results").exists()


def test_a_key_that_stands_twice_stops_the_workflow(tmp_path: Path, commands: Commands) -> None:
    """Snakemake's own reader takes the last of them; two files may each have it."""
    (tmp_path / "twice.yaml").write_text(TINY.read_text() + "nfe: [6]\n")
    refused = commands.snakemake(tmp_path, "-n", "--configfile", "twice.yaml")
    assert refused.returncode == 1 and "twice.yaml: key 'nfe' stands twice" in refused.stdout + refused.stderr
    (tmp_path / "more.yaml").write_text("nfe: [6]\n")
    planned = commands.snakemake(tmp_path, *QUIET, "--configfile", str(TINY), "more.yaml")
    assert planned.returncode == 0 and jobs(planned.stdout + planned.stderr)["fit"] == 4


def test_the_workflow_runs_from_any_folder_into_any_folder(tmp_path: Path, commands: Commands) -> None:
    (tmp_path / "here").mkdir()
    target = "results/tiny/models/features.safetensors"
    file = ("--configfile", str(TINY), "--config", "model={classifier_steps: 1}")
    done = commands.snakemake(tmp_path / "here", "--directory", str(tmp_path / "there"), *file, "--", target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "there" / target).exists() and not (tmp_path / "here" / "results").exists()
    planned = commands.snakemake(tmp_path / "here", "--directory", str(tmp_path / "there"), *QUIET)
    assert planned.returncode == 0 and jobs(planned.stdout + planned.stderr)["train"] == 3, "the default config"


def test_every_stage_is_a_place_to_stop(rerun: Path, tmp_path: Path, commands: Commands) -> None:
    """By the names in the docs; what is planned is that stage and what it needs."""
    before: set[str] = set()
    for stage in STAGES:
        planned = commands.snakemake(tmp_path, *QUIET, "--configfile", str(TINY), "--until", stage)
        assert planned.returncode == 0, stage + planned.stderr
        found = {rule.split("_")[0] for rule in jobs(planned.stdout)} - {"total"}
        after = STAGES[STAGES.index(stage) + 1 :]
        assert stage in found and not found & ({*after, "all"} - {"textbook"}), (stage, found)
        before |= found
    assert before == {*STAGES}
    for target in ("sample", "features", "evaluate"):
        done = commands.snakemake(rerun, "--configfile", str(TINY), "--", target)
        assert "Nothing to be done" in done.stdout + done.stderr, target


def test_every_rule_says_what_it_makes(tmp_path: Path, commands: Commands) -> None:
    for config in ("digits-full", "cifar10"):
        file = str(ROOT / "config" / f"{config}.yaml")
        listed = commands.snakemake(tmp_path, "--configfile", file, "--list-rules").stdout
        rules = re.findall(r"^(\w+)(?: \((.+)\))?$", listed, re.MULTILINE)
        assert len(rules) > 15 and all(about.endswith(".") for _, about in rules), listed
        assert not any(re.search(r"\d$", rule) for rule, _ in rules), "a name says what it is of"


def test_a_dry_run_can_be_read(tmp_path: Path, commands: Commands) -> None:
    planned = commands.snakemake(tmp_path, *QUIET, "--configfile", str(ROOT / "config" / "digits-full.yaml"))
    lines = (planned.stdout + planned.stderr).splitlines()
    table = [line for line in lines if re.match(r"^\w+ +\d+$", line)]
    assert len(lines) < 100 and all(len(line) < 100 for line in table) and "fit" in jobs("\n".join(table))


def test_snakemakes_report_holds_the_results(rerun: Path, tmp_path: Path, commands: Commands) -> None:
    made = commands.snakemake(rerun, "--configfile", str(TINY), "--report", str(tmp_path / "r.zip"))
    assert made.returncode == 0, made.stdout + made.stderr
    with zipfile.ZipFile(tmp_path / "r.zip") as file:
        held = {Path(name).name: file.read(name) for name in file.namelist() if "/data/raw/" in name}
    folder = rerun / "results" / "tiny"
    figures, tables = (
        ("fid_vs_nfe", "solvers", "samples", "distance", "loss_vs_fid"),
        ("summary", "gains", "ablations", "claims"),
    )
    held_as = {*(f"{name}.png" for name in figures), *(f"{name}.csv" for name in tables)}
    assert {*held} == {"report.html", "fid.csv", *held_as}
    assert {path.stem for path in (folder / "tables").glob("*.csv")} == {"fid", *tables}
    for name in ("report.html", *(f"figures/{name}.png" for name in figures)):
        assert held[Path(name).name] == (folder / name).read_bytes()


def test_results_on_a_disk_that_is_not_there(tmp_path: Path, commands: Commands) -> None:
    (tmp_path / "results").symlink_to(tmp_path / "disk")
    message = f"is a link to {tmp_path / 'disk'}, which is not there"
    refused = commands.snakemake(tmp_path, "--configfile", str(TINY))
    said = refused.stdout + refused.stderr
    assert refused.returncode == 1 and message in said and "Traceback" not in said
    refused = commands.s4s(tmp_path, "train", str(TINY), "features")
    assert refused.returncode == 1 and message in refused.stderr and refused.stderr.count("\n") == 1
    (tmp_path / "disk").mkdir()
    planned = commands.snakemake(tmp_path, *QUIET, "--configfile", str(TINY))
    assert planned.returncode == 0, "with the disk there, a link is as good as a folder"


def test_a_copy_without_times_does_not_start_again(finished: Path, tmp_path: Path, commands: Commands) -> None:
    """Also of a file above the 1 MB up to which Snakemake compares bytes by itself; changed bytes count as ever."""
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy, copy_function=shutil.copyfile)
    network = copy / "results" / "tiny" / "models" / "denoiser.safetensors"
    assert network.stat().st_size > 1_000_000
    network.touch()
    again = commands.snakemake(copy, *QUIET, "--configfile", str(TINY))
    assert "Nothing to be done" in again.stdout + again.stderr, again.stdout + again.stderr
    data = bytearray(network.read_bytes())
    data[-1] ^= 1
    network.write_bytes(data)
    again = commands.snakemake(copy, *QUIET, "--configfile", str(TINY))
    assert "teacher" in jobs(again.stdout + again.stderr)


@pytest.mark.parametrize("profile", ["default", "slurm", "cluster-generic"])
def test_profiles_agree_on_what_a_copied_file_is(profile: str) -> None:
    settings = yaml.safe_load((ROOT / "workflow" / "profiles" / profile / "config.yaml").read_text())
    assert settings["max-checksum-file-size"] == "4GB"
    assert "retries" not in json.dumps([path.read_text() for path in (ROOT / "workflow" / "rules").glob("*.smk")]), (
        "a rule's own retries run inside one allocation, with its memory"
    )
