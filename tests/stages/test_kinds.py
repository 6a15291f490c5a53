"""Benchmarks of every kind of model, and one table over them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import small
import torch
import yaml
from click.testing import CliRunner

from s4s import report
from s4s.cli.main import cli, main
from s4s.errors import Error
from s4s.report.anatomy import read_numbers
from s4s.report.transfer import Use, transfer_frame, transfer_table
from s4s.score.metrics import Moments, frechet, to_teacher, within_classes
from s4s.show import describe
from s4s.solver import load_solver
from s4s.stages import artefacts, config, kinds, written
from s4s.stages import cells as asked
from s4s.stages.transfer import evaluate_solver

ROOT = Path(__file__).resolve().parents[2]
CLASS = {
    "model": {"classes": "uniform", "guidance": 2.0},
    "score": {"protocol": "digits", "data": "digits", "metrics": ["fid", "classes", "teacher"]},
    "sample": {"n": 40},
}

OWN = {"learned": {"methods": ["s4s", "s4s-cfg", {"name": "s4s-cfg-skip", "family": "columns"}], "calls": 0.75}}
LATENT = {"model": {"latents": 2, "autoencoder_steps": 1}, "learned": {"space": "images"}, "sample": {"n": 40}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Results of two small benchmarks: classes with guidance, and latents."""
    results = tmp_path_factory.mktemp("kinds") / "results"
    benches = [
        small.bench(results, benchmark="a-class", **CLASS, **OWN),
        small.bench(results, benchmark="b-latent", **LATENT),
    ]
    for bench in benches:
        small.run(bench)
    return [bench.folder.root for bench in benches]


def test_a_solver_from_elsewhere_is_scored_within_classes_too(made: list[Path]) -> None:
    bench = small.bench(made[0].parent, benchmark="a-class", **CLASS)
    cell = small.textbook(bench)
    _, found = evaluate_solver(bench, bench.folder.solver(cell))
    own = json.loads(bench.folder.metrics(cell).read_text())
    judged = ("fid", "fid_within_classes", "class_accuracy", "fid_to_teacher", "distance_to_teacher")
    assert {key: found[key] for key in judged} == {key: own[key] for key in judged}


def test_kinds_in_one_table(made: list[Path], tmp_path: Path) -> None:
    """Calls, FID within classes and accuracy stand beside the FID where there is guidance, and nowhere else."""
    with pytest.raises(SystemExit) as end:
        main(["kinds", *map(str, made), "--out", str(tmp_path)])
    assert end.value.code == 0
    table = pd.read_csv(tmp_path / "kinds.csv")
    guided, latent = (table[table["benchmark"] == name] for name in ("a-class", "b-latent"))
    assert list(guided["method"]) == ["classical", "s4s", "s4s-cfg", "s4s-cfg-skip", "teacher"]
    assert list(guided["calls"]) == [4, 4, 4, 3, 8], "a guided evaluation is two calls, unless one is left out"
    assert latent["calls"].isna().all()
    assert (guided["fid_within_classes"] > 0).all()
    assert guided["class_accuracy"].between(0, 1).all()
    text = (tmp_path / "kinds.md").read_text()
    assert "| a-class | 2 (4 calls) |" in text
    assert "| b-latent | 2 |" in text
    metrics = json.loads(next((made[0] / "metrics").glob("s4s*.json")).read_text())
    assert metrics["protocol"]["guidance"] == 2.0
    solver = next((made[1] / "solvers").glob("*.json"))
    text = solver.read_text()
    solver.write_text(text + " ")
    refused = CliRunner().invoke(cli, ["kinds", *map(str, made), "--out", str(tmp_path)])
    solver.write_text(text)
    assert f"{made[1]}: " in str(refused.exception) and "only numbers that follow go into one table" in str(
        refused.exception
    )


def test_a_benchmark_counts_once(made: list[Path], tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(made[0])
    for command in (["kinds"], ["merge"], ["transfer"]):
        refused = CliRunner().invoke(
            cli, [*command, str(made[0]), str(tmp_path / "again"), "--out", str(tmp_path / "o")]
        )
        assert str(refused.exception) == "a folder is given twice; give each once"


def test_solvers_on_other_benchmarks(made: list[Path], tmp_path: Path) -> None:
    """A solver keeps its own score at home, has that of `evaluate --solver` elsewhere, and is not sampled twice."""
    for folder in made:
        name: dict[str, Any] = {"a-class": CLASS | OWN, "b-latent": LATENT}[folder.name]
        written.save(small.bench(folder.parent, benchmark=folder.name, **name).config, folder / "config.yaml")
    asked_for = ["transfer", *map(str, made), "--cells", "s4s_*", "--cells", "classical_*", "--out", str(tmp_path)]
    try:
        first = CliRunner().invoke(cli, asked_for)
        assert first.exception is None, first.exception
        (scored,) = (made[1] / "transfers").glob("s4s_*.json")
        before, text_of_scored = scored.stat().st_mtime_ns, scored.read_text()
        assert CliRunner().invoke(cli, asked_for).exception is None and scored.stat().st_mtime_ns == before
        refused = CliRunner().invoke(cli, [*asked_for[:3], "--cells", "x"])
        shutil.copytree(made[0], tmp_path / made[0].name)
        twice = CliRunner().invoke(cli, [*asked_for[:2], str(tmp_path / made[0].name)])
    finally:
        for folder in made:
            (folder / "config.yaml").unlink()
            shutil.rmtree(folder / "transfers", ignore_errors=True)
            shutil.rmtree(folder / "records" / "transfers", ignore_errors=True)
    table = pd.read_csv(tmp_path / "transfer.csv", keep_default_na=False).set_index(["method", "fitted_on", "used_on"])
    own = json.loads(next((made[0] / "metrics").glob("s4s_*.json")).read_text())
    assert table.loc[("s4s", "a-class", "a-class"), "fid"] == own["fid"]
    assert table.loc[("s4s", "a-class", "b-latent"), "fid"] == pytest.approx(json.loads(text_of_scored)["fid"])
    assert len(table) == 6, "a classical solver counts on its own benchmark alone"
    assert "no cell with a solver is called x" in str(refused.exception)
    assert "two of the folders hold benchmark a-class" in str(twice.exception)
    assert "| 2 | nothing | Classical | DDIM, EDM |" in (tmp_path / "transfer.md").read_text()


def test_solvers_that_differ_are_not_averaged() -> None:
    def use(fid: float, **own: Any) -> Use:
        record = {"method": "s4s-alt", "solver": "ipndm3", "schedule": "edm", "family": "lms", "order": 3, "nfe": 5}
        return Use("a", record | own, "b", {"fid": fid})

    made = [use(4.0), use(6.0, seed=1), use(40.0, radius=0.1), use(400.0, settings={"train": 25}), use(1.0, order=4)]
    frame = transfer_frame(made)
    assert frame["fid"].tolist() == [5.0, 40.0, 400.0, 1.0] and frame["fits"].tolist() == [2, 1, 1, 1]
    said = [row[2].text for block in transfer_table(frame).groups for row in block]
    assert said == ["S4S-Alt, LMS 3", "S4S-Alt, LMS 3, r = 0.1", "S4S-Alt, LMS 3, train 25", "S4S-Alt, LMS 4"]


def test_a_guided_benchmark_says_its_calls(made: list[Path], tmp_path: Path) -> None:
    files = sorted((made[0] / "metrics").glob("*.json"))
    frame = report.collect(files)
    judged = ["fid_within_classes", "class_accuracy", "fid_to_teacher", "distance_to_teacher"]
    assert list(frame.columns[-5:]) == ["calls", *judged]
    report.write_tables(files, tmp_path)
    for name in ("fid", "summary", "classes", "imitation"):
        assert "2 (4 calls)" in (tmp_path / f"{name}.md").read_text()
    nearness = pd.read_csv(tmp_path / "imitation.csv")
    assert "teacher" not in set(nearness["method"]) and (nearness["fid_to_teacher"] > 0).all()
    assert "(3 calls)" in (tmp_path / "fid.md").read_text()
    report.draw_fid(files, tmp_path / "calls", "calls")
    report.draw_imitation(files, tmp_path / "imitation")
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("calls.png", "imitation.png"))
    assert "radius" not in report.collect(sorted((made[1] / "metrics").glob("*.json"))).columns


def test_figures_show_both_columns(made: list[Path], tmp_path: Path) -> None:
    skipped = next((made[0] / "solvers").glob("s4s-cfg-skip*.json"))
    null = read_numbers(skipped).null
    assert null is not None
    assert null.any(0).sum() == 1, "of two evaluations one is asked without the class"
    assert read_numbers(next((made[0] / "solvers").glob("s4s_*.json"))).null is None
    report.draw_solvers(
        report.choose(sorted((made[0] / "metrics").glob("*.json"))), made[0] / "solvers", tmp_path / "a"
    )
    assert (tmp_path / "a.png").stat().st_size > 5000
    text = describe(load_solver(skipped))
    assert "guidance of its own: 3 network calls, two of every evaluation but D[" in text


def test_guidance_is_learned_where_there_is_some() -> None:
    with pytest.raises(Error, match=r"s4s-cfg learns guidance, and this model has none; set model\.guidance"):
        small.bench(learned={"methods": ["s4s-cfg"]})
    with pytest.raises(Error, match=r"s4s-cfg starts from one scale of guidance, and model\.guidance is a range"):
        small.bench(model={"classes": "uniform", "guidance": [1, 4]}, learned={"methods": ["s4s-cfg"]})
    with pytest.raises(Error, match=r"learned\.calls: it has no effect without method s4s-cfg-skip"):
        small.bench(learned={"calls": 0.75})


def test_fid_within_classes() -> None:
    """The mean of the classes' own distances, each against the real samples of its class, and the share told right."""
    draw = torch.Generator().manual_seed(0)
    real, labels = torch.randn(60, 3, generator=draw, dtype=torch.float64), torch.arange(60) % 2
    asked_for, told = torch.arange(40) % 2, torch.zeros(40, dtype=torch.long)
    fake = torch.randn(40, 3, generator=draw, dtype=torch.float64)
    found = within_classes(fake, asked_for, real, labels, told)
    each = [frechet(Moments.of(fake[asked_for == c]), Moments.of(real[labels == c])) for c in (0, 1)]
    assert found["fid_within_classes"] == pytest.approx(sum(each) / 2)
    assert found["class_accuracy"] == 0.5
    same = within_classes(real, labels, real, labels, labels)
    assert same == pytest.approx({"fid_within_classes": 0, "class_accuracy": 1}, abs=1e-12)
    with pytest.raises(Error, match="class 1 has 1 samples and 30 real ones; a FID needs 2 of each"):
        within_classes(fake[:3], asked_for[:3], real, labels, told[:3])


def test_nearness_to_the_teacher() -> None:
    """Nothing for the teacher's own samples; of samples moved by a vector, its square, in both."""
    draw = torch.Generator().manual_seed(0)
    teacher = torch.randn(50, 3, generator=draw, dtype=torch.float64)
    moved = teacher + torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    assert to_teacher(teacher, teacher) == pytest.approx({"fid_to_teacher": 0, "distance_to_teacher": 0}, abs=1e-12)
    assert to_teacher(moved, teacher) == pytest.approx({"fid_to_teacher": 5, "distance_to_teacher": 5})
    turned = to_teacher(teacher.flip(0), teacher)
    assert turned["fid_to_teacher"] == pytest.approx(0, abs=1e-12) and turned["distance_to_teacher"] > 1
    with pytest.raises(Error, match="features of 49 samples and of 50 of the teacher are not pairs"):
        to_teacher(teacher[1:], teacher)


def test_the_network_hangs_on_its_kind_alone() -> None:
    """Guidance leaves the network; classes, process and latents do not. What `digits` is made from has not changed."""
    plain = small.bench().config
    assert asked.made_from(plain, "train") == {"model": plain["model"], "code": 1}
    assert asked.made_from(plain, "fit")["code"] == 2, "solvers of the engine before are made again"
    guided, other = (small.bench(model={"classes": "uniform", "guidance": g}).config for g in (2.0, 4.0))
    assert asked.made_from(guided, "train") == asked.made_from(other, "train")
    assert asked.made_from(guided, "teacher") != asked.made_from(other, "teacher")
    made = [plain, guided, small.bench(process={"type": "vp"}).config, small.bench(process={"type": "flow"}).config]
    found = [asked.made_from(one, "train") for one in made]
    assert all(a != b for k, a in enumerate(found) for b in found[:k])


def test_the_list_of_kinds() -> None:
    listed = kinds.parts(written.read(ROOT / "config/kinds.yaml"), ROOT / "config")
    assert [part["benchmark"] for part in listed] == [
        "digits", "digits-vp", "digits-flow", "digits-latent", "digits-class-g1", "digits-class", "digits-class-g4",
    ]  # fmt: skip
    assert [part["model"].get("guidance") for part in listed[-3:]] == [1.0, 2.0, 4.0]
    one, two = listed[-3], listed[-2]
    assert asked.made_from(one, "train") == asked.made_from(two, "train"), "one network, three scales"


def test_a_part_is_made_again_when_code_or_files_of_ones_own_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("methods").mkdir()
    Path("methods/kept.py").write_text("def fit(start, denoise, teacher, seed):\n    return start\n")
    part = small.bench(learned={"methods": ["kept"]}).config
    found = [config.digest(kinds.made_from(part))]
    Path("methods/kept.py").write_text("def fit(start, denoise, teacher, seed):\n    return  start\n")
    found.append(config.digest(kinds.made_from(part)))
    monkeypatch.setitem(asked.CODE, "score", asked.CODE["score"] + 1)
    found.append(config.digest(kinds.made_from(part)))
    monkeypatch.setitem(asked.LATER, "grid", asked.LATER["grid"] + 1)
    found.append(config.digest(kinds.made_from(part)))
    assert len({*found}) == 4


def test_a_part_is_whole_with_all_that_its_run_ends_with(tmp_path: Path) -> None:
    part = small.bench().config
    ends = ["fid.csv", "report.html", "tables/summary.md", "tables/fid.tex", "figures/samples.pdf"]
    made = [f"tables/{name}.{suffix}" for name in artefacts.tables(part) for suffix in ("csv", "md", "tex")]
    made += [f"figures/{name}.{suffix}" for name in artefacts.figures(part) for suffix in ("png", "pdf")]
    for name in {*made, *ends}:
        (tmp_path / "small" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "small" / name).touch()
    assert kinds.whole(part, tmp_path)
    for name in ends:
        (tmp_path / "small" / name).unlink()
        assert not kinds.whole(part, tmp_path), name
        (tmp_path / "small" / name).touch()


def test_configs_of_a_list_lie_beside_the_file_that_names_them(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("benchmark: mine\n")
    assert kinds.place([ROOT / "config/kinds.yaml", tmp_path / "mine.yaml"]) == ROOT / "config"
    assert kinds.place([ROOT / "config/digits.yaml", tmp_path / "mine.yaml"]) == tmp_path


def test_a_list_is_no_benchmark() -> None:
    with pytest.raises(Error, match=r"kinds\.yaml: a list of benchmarks, which `s4s run` and snakemake take"):
        config.load(ROOT / "config/kinds.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{benchmark: a, parts: [], more: 1}", "unknown key 'more'"),
        ("{benchmark: a, parts: []}", "parts: needs a list of"),
        ("{benchmark: a, parts: [{config: x.yaml, changes: {}}]}", "parts: needs a list of"),
        ("{benchmark: A, parts: [{config: x.yaml}]}", "benchmark: 'A' is no name of a results folder"),
        (f"{{benchmark: {'a' * 101}, parts: [{{config: x.yaml}}]}}", "is no name of a results folder: at most 100"),
        ("{benchmark: a, parts: [{config: x.yaml}]}", "x.yaml: cannot read the config"),
        ("{benchmark: a, parts: [{config: one.yaml}, {config: one.yaml}]}", "two benchmarks of the name 'small'"),
        (
            "{benchmark: a, parts: [{config: one.yaml, change: {nfe: 0}}]}",
            "one.yaml: nfe: 0 is not possible; it takes",
        ),
    ],
)
def test_bad_lists_are_one_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(small.CONFIG))
    with pytest.raises(Error, match=message):
        kinds.parts(yaml.safe_load(text), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"guidance": 2.0}}, "model.guidance: it needs a class-conditional network"),
        ({"model": {"autoencoder_steps": 9}}, "model.autoencoder_steps: it has no effect without latents"),
        ({"model": {"latents": 2}}, "set learned.space to images"),
        ({"score": {"protocol": "digits", "data": "digits", "metrics": ["fid", "classes"]}}, "set model.classes"),
        (
            {"model": {"classes": "uniform", "guidance": [4, 1]}},
            r"model.guidance: \[4, 1\] is no range; give the lower",
        ),
        ({"process": {"type": "vp", "sigma_min": 0.1}}, "process: unknown key 'sigma_min'; choose one of: t_max"),
        ({"process": {"type": "ve"}}, "process.type: 've' is not possible; choose one of: edm, vp, flow"),
        ({**CLASS, "sample": {"n": 8}}, "sample.n: classes needs at least 20 samples"),
    ],
)
def test_impossible_kinds_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Error, match=message):
        small.bench(**changes)
