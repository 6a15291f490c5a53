"""The six published benchmarks: every job of the real ones resolves, and scaled down they run to their tables."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from commands import ROOT, Commands
from published import NAMES, random_lpips, scaled
from published import world as world
from stable import stable as stable

from s4s.cli.main import cli
from s4s.files import sha256
from s4s.stages import cells as asked
from s4s.stages import config

FIELDS = ("extractor", "layer", "weights_sha256", "resize", "uint8", "uint8_formula", "reference_sha256", "classes",
          "guidance", "n_samples", "fid_label", "sample_seed", "sigma_range", "changed", "protocol")  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_job_of_the_shipped_config_resolves(name: str, tmp_path: Path, commands: Commands) -> None:
    path = ROOT / "config" / f"{name}.yaml"
    done = commands.snakemake(tmp_path, "--configfile", str(path), "-n")
    assert done.returncode == 0, done.stdout + done.stderr
    loaded = config.load(path)
    counts = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2 and line[-1].isdigit())
    learned = [cell for cell in asked.cells(loaded) if cell.learned]
    assert int(counts["fit"]) == len(learned) and counts["download"] == "1"
    jobs = {(cell.kind, cell.nfe) for cell in asked.cells(loaded)}
    features = sum(int(count) for rule, count in counts.items() if rule.startswith("features_"))
    assert features == len(jobs) * len(asked.shards(loaded))
    assert not any(rule.startswith("sample_") for rule in counts), "images are not kept"
    assert not list(tmp_path.glob("results/*")), "a dry run leaves no trace"


def run(*arguments: str) -> str:
    done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("name", NAMES)
def test_scaled_down_it_runs_from_download_to_table(name: str, world: tuple[Path, str], stable: Any) -> None:
    folder, url = world
    made = scaled(name, folder, url, stable[0])
    if "lpips" in made["learned"]["distance"]:
        random_lpips(Path("cache"))
    Path("config.yaml").write_text(yaml.safe_dump(made))
    cells = [cell.name for cell in asked.cells(config.load("config.yaml"))]
    run("download", "config.yaml")
    for path in folder.glob("*.*"):  # from here on nothing may be fetched
        if path.suffix in (".pkl", ".ckpt", ".zip", ".npz"):
            path.unlink()
    run("teacher", "config.yaml")
    for stage in ("fit", "sample", "evaluate"):
        run(stage, "config.yaml", *cells)
    run("table", "config.yaml")
    if name in ("cifar10", "mscoco"):
        run("paths", "config.yaml")
        run("figure", "config.yaml")
        assert (Path("results") / name / "report.html").stat().st_size
    run("download", "config.yaml", "--offline")

    root = Path("results") / name
    with (root / "fid.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(cells) and all(math.isfinite(float(row["fid"])) for row in rows)
    assert (root / "tables" / "fid.md").stat().st_size
    for cell in asked.cells(config.load("config.yaml")):
        record = json.loads((root / "metrics" / f"{cell.name}.json").read_text())
        check_record(record, made)
        if cell.learned:
            fit = json.loads((root / "fits" / f"{cell.name}.json").read_text())
            assert fit["val_loss"] <= fit["start_loss"] and record["val_loss"] == fit["val_loss"]
            teacher = json.loads((root / "solvers" / f"{cell.name}.json").read_text())["provenance"]["teacher"]
            assert teacher["nfe"] == (5 if name == "mscoco" else made["teacher"]["nfe"])
            assert ("condition" in teacher) == (name in ("imagenet256", "mscoco"))
    same_bits_in_other_shards(root / "samples" / cells[-1], cells[-1])


def check_record(record: dict[str, Any], made: dict[str, Any]) -> None:
    """Everything a number depends on is beside it."""
    protocol, provenance, model = record["protocol"], record["provenance"], record["provenance"]["model"]
    assert set(FIELDS) <= protocol.keys()
    assert protocol["protocol"] == made["score"]["protocol"] and protocol["fid_label"] == "FID@40"
    assert len(protocol["weights_sha256"]) == len(protocol["reference_sha256"]) == 64
    assert protocol["guidance"] == made["model"].get("guidance")
    assert {"extractor", "layer"} <= set(protocol["changed"])
    assert provenance["device"] == "cpu" and provenance["dtype"] == model["dtype"] == "float32"
    if model["type"] in ("edm", "ldm"):
        assert model["weights_sha256"] == sha256(Path("results") / record["benchmark"] / "models/denoiser.safetensors")
        assert len(model["source"]["sha256"]) == 64 and model["source"]["licence"]
    if record["benchmark"] == "imagenet256":
        assert protocol["classes"]["plan"] == "uniform" and protocol["classes"]["count"] == 10
    if record["benchmark"] == "mscoco":
        assert protocol["prompts"]["n"] == 7 and protocol["prompts_repeat"] is True  # 40 samples
        assert len(protocol["prompts"]["sha256"]) == 64
    if "kid" in made["score"].get("metrics", []):
        assert math.isfinite(record["kid"]) and record["kid_subset_size"] == 30
        assert 0 <= record["precision"] <= 1 and record["fid_interval"]["replicates"] == 5


def same_bits_in_other_shards(folder: Path, cell: str) -> None:
    whole: dict[str, Any] = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            for key in ("states", "images"):
                if key in file and (key == "states" or "states" not in file):
                    whole.setdefault(key, []).append(file[key])
    run("sample", "config.yaml", cell, "--first", "7", "--last", "33")
    with np.load(folder / "000007-000033.npz") as file:
        for key, parts in whole.items():
            assert np.array_equal(file[key], np.concatenate(parts)[7:33]), key
