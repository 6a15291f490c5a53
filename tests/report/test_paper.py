"""The paper's artefacts on made-up results: what each choice is worth, teacher sets, the course of fits, claims."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import ROOT, Commands
from made_up import Results

from s4s import report
from s4s.errors import Error
from s4s.report import course
from s4s.report.ablations import ablations_table
from s4s.report.claims import claims
from s4s.report.data import read_records, scores, settings_text, to_frame
from s4s.report.render import markdown
from s4s.report.variants import varied
from s4s.stages import artefacts, config
from s4s.stages import cells as asked

NFE, SEEDS = 5, (0, 1, 2)


def add(made: Results, method: str, fid: float, tag: str = "", whole: int = 1400, **changes: Any) -> None:
    """A row of three seeds, its fits and solver files."""
    begun = changes.pop("start", ("ipndm3", "edm"))
    for seed in SEEDS:
        cell = f"{method}{tag}_{seed}"
        made.add(method, *begun, NFE, fid + 0.1 * (seed - 1), seed=seed, cell=cell, fit_peak_bytes=712e6, **changes)
        for folder in ("fits", "solvers"):
            (made.root / folder).mkdir(exist_ok=True)
        start = [w for n in range(NFE) for w in course.IPNDM[min(n, 2)]]
        late = [w + 0.5 + 0.01 * seed for w in start]
        history = [{"val_loss": 2.0, "weights": start}, {"val_loss": 1.0, "weights": late}]
        (made.root / "fits" / f"{cell}.json").write_text(json.dumps({"history": history}))
        size = changes.get("settings", {}).get("train", whole)
        (made.root / "solvers" / f"{cell}.json").write_text(json.dumps({"provenance": {"teacher_samples": size}}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Results:
    results = Results(tmp_path_factory.mktemp("paper"), "ablations")
    results.add("teacher", "dpmpp3", "logsnr", 40, 1.0)
    results.add("classical", "ipndm3", "edm", NFE, 20.0)
    add(results, "s4s", 8.0, val_loss=0.9)
    for radius, loss in ((0.01, 0.5), (0.1, 0.2)):
        add(results, "s4s", 8.0 + radius, f"-r{radius}", radius=radius, relaxed_loss=loss)
    add(results, "s4s-alt", 4.0)
    add(results, "s4s-alt", 5.0, "-pc", family="pc")
    add(results, "s4s-alt", 5.5, "-ss", family="ss", order=2, start=("ddim", "edm"))
    add(results, "s4s-alt", 8.0, "-25", settings={"train": 25})
    add(results, "s4s-alt", 4.4, "-100", settings={"train": 100})
    add(results, "s4s-alt", 3.0, "-m", settings={"moments": 10.0, "decoupled": False})
    add(results, "joint", 6.0)
    add(results, "s4s-alt", 7.0, "-ddim", start=("ddim", "edm"), order=1)
    add(results, "s4s-alt", 4.8, "-alone", start=("dpmpp3", "logsnr"), settings={"race": False})
    return results


def test_every_variation_stands_beside_the_method_as_it_is(made: Results) -> None:
    records = read_records(made.metrics)
    found = scores(to_frame(records))
    said = {what: (round(score.fid, 6), round(base.fid, 6)) for what, score, base in varied(found)}
    assert said == {
        "family PC": (5.0, 4.0), "train 25": (8.0, 4.0), "train 100": (4.4, 4.0), "joint, not alternating": (6.0, 4.0),
        "family SS, order 2, start DDIM, EDM": (5.5, 4.0),
        "order 1, start DDIM, EDM": (7.0, 4.0), "start DPM-Solver++ 3, logSNR, no race": (4.8, 4.0),
        "not decoupled, moments 10": (3.0, 4.0), "radius 0.01": (8.01, 8.0), "radius 0.1": (8.1, 8.0),
    }  # fmt: skip
    table = ablations_table(found, records)
    assert table is not None
    text = markdown(table)
    assert "| S4S-Alt | not decoupled, moments 10 | 5 | **3.00 ± 0.10 (3)** | 0.75× | 102,400 | 31 | 712 |" in text
    assert "Starts, where no other is said: S4S: iPNDM 3, EDM; S4S-Alt: iPNDM 3, EDM." in text
    assert "| S4S | as it is | 5 | **8.00 ± 0.10 (3)** |" in text
    written = report.write_tables(made.metrics, made.root / "tables")
    assert {"ablations.tex", "claims.csv"} <= {path.name for path in written}


def test_figures_are_of_enough_seeds(made: Results, tmp_path: Path) -> None:
    assert len(report.draw_size(made.metrics, tmp_path / "size")) == 2
    assert len(report.draw_course(made.metrics, tmp_path / "course")) == 2
    assert len(report.draw_gains(made.metrics, tmp_path / "gains")) == 2
    assert len(report.draw_choices(made.metrics, tmp_path / "choices")) == 2
    two = [path for path in made.metrics if not path.stem.endswith("_2")]
    with pytest.raises(Error, match="with 3 seeds"):
        report.draw_size(two, tmp_path / "no")
    with pytest.raises(Error, match="with 3 seeds"):
        report.draw_course(two, tmp_path / "no")
    with pytest.raises(Error, match="has 3 seeds"):
        report.draw_choices(two, tmp_path / "no")


def test_pictures_are_of_methods_as_they_are(made: Results, tmp_path: Path) -> None:
    choice = report.choose(made.metrics)
    shown = {method: (record["family"], record["solver"]) for method, record in choice.cells.items()}
    assert shown["s4s-alt"] == ("lms", "ipndm3") and {*shown} == {"teacher", "classical", "s4s", "s4s-alt", "joint"}
    cells = {path.stem: {"sigma": [80.0, 1.0, 0.0], "distance": [0.0, 0.2, 0.1]} for path in made.metrics}
    (made.root / "paths.json").write_text(json.dumps({"noises": 100, "cells": cells}))
    assert len(report.draw_distance(made.metrics, choice, made.root / "paths.json", tmp_path / "distance")) == 2
    (made.root / "paths.json").write_text('{"noises": 100}')
    with pytest.raises(Error, match=r"paths\.json: holds no distances along the steps"):
        report.draw_distance(made.metrics, choice, made.root / "paths.json", tmp_path / "distance")


def test_a_start_is_a_variation_only_beside_a_usual_one(tmp_path: Path) -> None:
    results = Results(tmp_path, "ablations")
    for k, start in enumerate((("ipndm3", "edm"), ("dpmpp3", "logsnr"))):
        add(results, "s4s-alt", 4.0 + k, f"-{k}", start=start)
    assert varied(scores(to_frame(read_records(results.metrics)))) == []


@pytest.mark.parametrize("name", ["digits", "digits-full", "digits-class", "digits-any", "ablations", "cifar10"])
def test_tables_that_a_config_is_sure_of_are_made(name: str, tmp_path: Path) -> None:
    loaded = config.load(ROOT / "config" / f"{name}.yaml")
    results = Results(tmp_path, name if name == "ablations" else "digits")
    for cell in asked.cells(loaded):
        own = {"order": cell.order or cell.options.get("order"), "settings": dict(cell.settings), "seed": cell.seed}
        own |= {"radius": cell.radius, "family": (cell.family or "lms") if cell.learned else ""}
        results.add(cell.method, cell.start, cell.schedule, cell.nfe, 4.0, cell=cell.name, **own)
    made = {path.stem for path in report.write_tables(results.metrics, tmp_path / "tables")}
    sure = {*artefacts.tables(loaded)} - {"classes"}
    assert sure <= made and ("ablations" in sure) == ("ablations" in made) and {"gains", "claims"} <= sure


def test_a_radius_of_all_fits_is_no_variation_of_any() -> None:
    loaded = config.load(ROOT / "config" / "digits-full.yaml")
    asked_for = []
    for radius in (0.0, 0.1):
        loaded["learned"] |= {"radius": radius, "methods": ["s4s", {"name": "s4s", "family": "pc"}], "seeds": [0, 1, 2]}
        asked_for.append((artefacts.tables(loaded), artefacts.figures(loaded)))
    assert asked_for[0] == asked_for[1] and "ablations" in asked_for[0][0] and "course" in asked_for[0][1]


def test_weights_are_read_by_step_and_components_keep_distances() -> None:
    table = course.table_of(list(range(9)), 4)
    assert table.tolist() == [[0, 0, 0], [1, 2, 0], [3, 4, 5], [6, 7, 8]]
    assert course.ipndm(4)[3] == pytest.approx([23 / 12, -16 / 12, 5 / 12])
    plane = np.random.default_rng(0).normal(size=(7, 2)) @ np.random.default_rng(1).normal(size=(2, 12))
    found = course.components(plane)
    gaps = lambda x: np.linalg.norm(x[:, None] - x[None], axis=2)
    assert np.allclose(gaps(found), gaps(plane))


def test_claims_say_what_was_found_and_by_how_much(made: Results) -> None:
    records = read_records(made.metrics)
    by = {claim.where: claim for claim in claims(scores(to_frame(records)), records)}
    assert by["abstract, main tables"].found == "lower FID in 3 of 3 cells, median 0.40 times the start's"
    assert by["abstract"].holds and by["abstract"].found == "5.0 times at 5 NFE"
    assert by["Figure 4"].holds and "0.9 at r = 0, 0.2 at 0.1" in by["Figure 4"].found
    assert by["Figure 5"].holds and "100 samples reach 1.10 times the FID" in by["Figure 5"].found
    assert by["Figure 3"].holds and "0.03 times as far from each other as from iPNDM" in by["Figure 3"].found


def test_little_data_is_a_share_of_the_set_that_was_there(tmp_path: Path) -> None:
    results = Results(tmp_path, "ablations")
    add(results, "s4s-alt", 4.0, whole=700)
    add(results, "s4s-alt", 8.0, "-25", settings={"train": 25})
    add(results, "s4s-alt", 4.4, "-100", settings={"train": 100})
    records = read_records(results.metrics)
    by = {claim.where: claim for claim in claims(scores(to_frame(records)), records)}
    assert not by["Figure 5"].holds and "25 samples reach 2.00 times the FID" in by["Figure 5"].found
    for path in (results.root / "solvers").glob("*.json"):
        path.unlink()
    assert "Figure 5" not in {claim.where for claim in claims(scores(to_frame(records)), records)}


def test_settings_in_words() -> None:
    assert (
        settings_text({"train": 100, "teacher_nfe": 10, "decoupled": False, "race": False})
        == "not decoupled, no race, teacher NFE 10, train 100"
    )
    assert settings_text({"distance": {"l2": 1.0, "feature": 0.5}}) == "distance 1 l2 + 0.5 feature"


def test_the_ablations_ask_for_every_choice_of_the_paper() -> None:
    loaded = config.load(ROOT / "config" / "ablations.yaml")
    names = [cell.name for cell in asked.cells(loaded)]
    for part in ("s4s-alt-pc_", "s4s-alt-4_", "joint_", "not-decoupled", "train25_", "teacher10_", "-l2_", "r0.1_",
                 "-ss2_", "s4s-alt-1_", "s4s-alt-2_", "s4s-alt_dpmpp3", "race_ipndm3", "race_dpmpp3"):  # fmt: skip
        assert sum(part in name for name in names) >= 3, part
    assert {"ablations", "course", "teacher_set", "radius", "samples"} <= {*artefacts.figures(loaded)}
    assert [cell.nfe for cell in asked.teachers(loaded)] == [40, 10, 20]
    assert asked.teacher_files(loaded, asked.teacher_of(loaded, 5, 10)) == {
        "teacher/nfe10/pairs.safetensors": (0, 1912)
    }


def test_the_target_of_the_paper_is_the_digits_and_their_ablations(tmp_path: Path, commands: Commands) -> None:
    done = commands.snakemake(tmp_path, "paper", "-n", "-q", "rules")
    jobs = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
    assert jobs["ablations"] == "1" and jobs["figure"] == "1", done.stdout + done.stderr
    done = commands.snakemake(tmp_path, "paper", "-n", "-q", "rules", "--configfile", str(ROOT / "config/cifar10.yaml"))
    assert done.returncode == 0 and "ablations" not in done.stdout
    for file in ((), ("--configfile", str(ROOT / "config" / "kinds.yaml"))):
        done = commands.run(tmp_path, "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--unlock", *file)
        assert done.returncode == 0, "what Snakemake asks for after a kill takes no --cores"


def test_fid_csv_has_settings_last(made: Results) -> None:
    report.write_fid_csv(report.collect(made.metrics), made.root / "fid.csv")
    rows = list(csv.DictReader((made.root / "fid.csv").open()))
    assert list(rows[0])[-1] == "settings" and sum(row["settings"] == "train 25" for row in rows) == 3
