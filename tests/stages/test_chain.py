"""What is read is what its maker wrote, made from what is there now: else it is made again, or one line names both."""

from __future__ import annotations

import os
import random
import re
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from commands import ROOT
from small import bench, learned, run, shard, teach, textbook, train

import s4s
from s4s import records
from s4s.cli.main import cli
from s4s.report.samples import samples_file
from s4s.stages import cells, written
from s4s.stages.bench import Bench
from s4s.stages.chain import Chain
from s4s.stages.evaluate import evaluate_cell
from s4s.stages.features import make_features
from s4s.stages.fit import fit_cell
from s4s.stages.networks import train_network
from s4s.stages.paths import write_paths
from s4s.stages.sample import sample_cell
from s4s.stages.verify import numbers, report


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of every stage, the table and the figures; nobody writes there."""
    where = tmp_path_factory.mktemp("chain")
    run(made := bench(where / "results"))
    noted(made)
    for command in ("table", "figure"):
        typed(command, made)
    return where


@pytest.fixture
def made(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A copy of it, without the times of its files."""
    shutil.copytree(finished, tmp_path / "copy", copy_function=shutil.copyfile)
    monkeypatch.chdir(tmp_path / "copy")
    return bench()


def noted(made: Bench) -> None:
    """The config in the folder of results, as Snakemake writes it there."""
    written.save(made.config, made.folder.root / "config.yaml")
    made.chain.note(made.folder.root / "config.yaml", "config", {})


def typed(command: str, made: Bench) -> str:
    """A command as it is typed; what it says when it refuses."""
    path = made.folder.root.parent / "typed.yaml"
    written.save(made.config, path)
    done = CliRunner().invoke(cli, [command, str(path), "--results", str(made.folder.root.parent)])
    assert done.exit_code == 0 or isinstance(done.exception, s4s.Error), done.exception
    return str(done.exception or "")


def change(path: Path, at: int = -1) -> None:
    """One byte of a file, in place; its size and its time stay."""
    data, times = bytearray(path.read_bytes()), path.stat()
    data[at] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def test_every_changed_byte_is_named_and_nothing_else(made: Bench) -> None:
    root, draw = made.folder.root, random.Random(0)
    lines, follow = report(root)
    assert follow and lines == [f"{root}: 3 of 3 numbers follow from all that they were made from"]
    kinds = {path.parent for path in root.rglob("*") if path.is_file()}
    for path in (draw.choice(sorted(p for p in kind.iterdir() if p.is_file())) for kind in sorted(kinds)):
        whole = path.read_bytes()
        for at in {0, draw.randrange(len(whole)), len(whole) - 1}:
            path.write_bytes(whole[:at] + bytes([whole[at] ^ draw.randrange(1, 256)]) + whole[at + 1 :])
            lines, follow = report(root)
            assert not follow and any(path.name in line for line in lines), (path, at, lines)
        path.write_bytes(whole)
    assert report(root)[1]


def test_verify_names_the_link_and_ends_with_status_1(made: Bench) -> None:
    change(made.folder.root / "teacher" / "pairs.safetensors")
    done = CliRunner().invoke(cli, ["verify", str(made.folder.root)])
    said = done.output.splitlines()
    assert done.exit_code == 1 and len(said) == 2, said
    assert (
        said[0].startswith(learned(made).name) and "teacher/pairs.safetensors: has changed since it was made" in said[0]
    )
    assert said[1].endswith("2 of 3 numbers follow from all that they were made from")
    with pytest.raises(s4s.Error, match=r"holds no numbers"):
        report(Path("results"))


def test_what_an_older_config_left_behind_is_no_number_of_this_one(made: Bench) -> None:
    """It is listed; it goes into no table, and that it follows from nothing any more breaks none."""
    root, left = made.folder.root, learned(made).name
    fewer = bench(learned={"methods": [], "starts": []}, sample={"n": 120})
    noted(fewer)
    for cell in cells.cells(fewer.config):
        evaluate_cell(fewer, cell)
    assert not typed("table", fewer) and not typed("figure", fewer)
    change(root / "teacher" / "pairs.safetensors")
    assert report(root) == ([f"not asked for by config.yaml: metrics/{left}.json",
                             f"{root}: 2 of 2 numbers follow from all that they were made from"], True)  # fmt: skip
    assert [path.stem for path in numbers(root)] == [textbook(made).name, cells.teachers(made.config)[0].name]
    for command in (["kinds", str(root), "--out", "kinds"], ["merge", str(root), "--out", "merged"]):
        done = CliRunner().invoke(cli, command)
        assert done.exit_code == 0, done.exception
    for table in (Path("kinds/kinds.md"), *Path("merged/tables").glob("*.md")):
        assert "S4S" not in table.read_text() and "FID@120" in table.read_text(), table
    noted(bench(nfe=[3], teacher={"nfe": 5}))
    with pytest.raises(s4s.Error, match=r"holds no numbers that its config.yaml asks for"):
        numbers(root)


def retrained(made: Bench) -> Bench:
    """The same config, and other weights in the same place."""
    train_network(other := bench(Path("elsewhere"), model={"seed": 5}), "denoiser")
    path = made.folder.model("denoiser")
    shutil.copyfile(other.folder.model("denoiser"), path)
    os.utime(path, (0, 0))
    made.chain.note(path, "train", {})
    return bench()


@pytest.mark.parametrize("stage", [fit_cell, evaluate_cell, lambda b, c: sample_cell(b, c, 0, 100),
                                   lambda b, c: make_features(b, c, 0, 100)])  # fmt: skip
def test_no_stage_uses_what_another_network_made(made: Bench, stage: Callable[..., Path]) -> None:
    other = retrained(made)
    with pytest.raises(
        s4s.Error, match=r"pairs.safetensors: made from .*denoiser.safetensors with SHA-256 .*, which now"
    ):
        stage(other, learned(other))
    assert "made from" in typed("table", other) and "made from" in typed("figure", other)
    lines, follow = report(other.folder.root)
    assert not follow and lines[-1].endswith("0 of 3 numbers follow from all that they were made from")


def test_what_can_be_made_again_is(made: Bench) -> None:
    """A textbook solver of the digits is of no network: its features are made of the new one, and nothing is mixed."""
    other, cell = retrained(made), textbook(made)
    evaluate_cell(other, cell)
    teach(other)
    for cell in (learned(other), *[c for c in other.chain._cells.values() if not c.learned]):
        fit_cell(other, cell)
        evaluate_cell(other, cell)
    write_paths(other)
    assert not typed("table", other) and not typed("figure", other) and report(other.folder.root)[1]


def test_a_bench_lets_go_of_a_network_that_was_replaced(made: Bench) -> None:
    evaluate_cell(made, cell := textbook(made))
    old = made.model.facts["weights_sha256"]
    retrained(made)
    evaluate_cell(made, cell)
    assert made.model.facts["weights_sha256"] != old


@pytest.mark.parametrize(("victim", "reader"), [
    ("models/denoiser.safetensors", sample_cell), ("models/features.safetensors", make_features),
    ("models/perceptual.safetensors", fit_cell), ("teacher/pairs.safetensors", fit_cell),
    ("solvers/{cell}.json", make_features), ("fits/{cell}.json", evaluate_cell),
])  # fmt: skip
def test_what_changed_after_it_was_made_is_not_read(made: Bench, victim: str, reader: Callable[..., Path]) -> None:
    cell = learned(made)
    path = made.folder.root / victim.format(cell=cell.name)
    change(path)
    with pytest.raises(s4s.Error, match=rf"{path.name}: has changed since it was made: SHA-256 \w+ then, \w+ now"):
        reader(made, cell, 0, 100) if reader in (sample_cell, make_features) else reader(made, cell)


@pytest.mark.parametrize(("changes", "words"), [
    ({"process": {"sigma_max": 20.0}}, "process.sigma_max = 80.0 there, 20.0 in this one"),
    ({"model": {"steps": 2}}, "model.steps = 1 there, 2 in this one"),
    ({"sample": {"seed": 7}}, "seed = 200 there, 7 in this one"),
    ({"score": {"protocol": "digits", "data": "digits", "bootstrap": 10}}, "made from another config"),
])  # fmt: skip
def test_results_of_another_config_do_not_reach_the_table(made: Bench, changes: dict, words: str) -> None:
    other = bench(**changes)
    assert words in typed("table", other) and words in typed("figure", other)


def test_a_textbook_solver_of_another_config_is_not_sampled_with(made: Bench) -> None:
    other = bench(process={"sigma_max": 20.0})
    with pytest.raises(s4s.Error, match=r"process.sigma_max = 80.0 there, 20.0 in this one"):
        evaluate_cell(other, textbook(other))
    fit_cell(other, textbook(other))
    with pytest.raises(s4s.Error, match=r"sigma_max = 80.0 there, 20.0"):
        evaluate_cell(other, textbook(other))


def test_results_under_another_name_are_of_that_name(made: Bench) -> None:
    shutil.copytree(made.folder.root, Path("results/other"))
    assert report(Path("results/other"))[1], "a copy is whole in itself"
    other = bench(benchmark="other")
    assert "benchmark = 'small' there, 'other' in this one" in typed("table", other)
    evaluate_cell(other, textbook(other))


def test_figures_and_tables_of_an_older_config_go_and_other_files_stay(made: Bench) -> None:
    figures = made.folder.root / "figures"
    (figures / "mine.png").write_bytes(b"")
    assert (figures / "loss_vs_fid.png").exists()
    fewer = bench(learned={"methods": [], "starts": []})
    noted(fewer)
    for command in ("table", "figure"):
        assert not typed(command, fewer)
    assert sorted(path.name for path in figures.iterdir()) == ["fid_vs_nfe.pdf", "fid_vs_nfe.png", "mine.png"]
    (figures / "mine.png").unlink()
    lines, follows = report(made.folder.root)
    assert follows, lines


def test_pictures_are_of_what_was_scored(made: Bench) -> None:
    """An older shard of fewer samples goes when a new one is made; one that is put there by hand is not shown."""
    cell, features = textbook(made), made.folder.root / "features"
    other = bench(model={"steps": 2}, sample={"n": 120})
    train(other)
    new = make_features(other, cell, 0, 120)
    assert samples_file(features, cell.name) != shard(made, cell) or not shard(made, cell).exists()
    fit_cell(other, cell)
    evaluate_cell(other, cell)
    shutil.copyfile(new, new.with_name("000000-000001.npz"))
    assert samples_file(features, cell.name) == new


@pytest.mark.parametrize("schedule", ["gits", "even"])
def test_grids_of_an_older_network_are_searched_anew(made: Bench, schedule: str) -> None:
    searched = bench(classical={"schedules": [schedule]})
    cell = textbook(searched)
    before = s4s.load_solver(fit_cell(searched, cell)).sigma
    (costs,) = searched.searched(cell)
    old = costs.read_bytes()
    other = retrained(made)
    again = bench(classical={"schedules": [schedule]})
    with pytest.raises(s4s.Error, match=rf"{costs.name}: made from .*denoiser.safetensors"):
        evaluate_cell(again, cell)
    fit_cell(again, cell)
    assert costs.read_bytes() != old and len(before) == 3 and other.chain.follows(costs)
    change(costs, 20)
    with pytest.raises(s4s.Error, match=rf"{costs.name}: has changed since it was made"):
        evaluate_cell(again, cell)


def test_an_unfinished_fit_of_other_files_starts_anew(made: Bench) -> None:
    cell = learned(made)
    left = made.folder.unfinished(cell)
    made.chain.go_on(left, "fit", {"teacher/pairs.safetensors": "0" * 64}, {})
    further = left.with_name(f"{left.name}.calls")
    for part in (left, further):
        part.write_bytes(b"left")
    with pytest.warns(s4s.errors.Notice, match="files that have changed; this fit starts anew"):
        fit_cell(made, cell)
    assert not left.exists() and not further.exists()
    assert not records.path_of(made.folder.root, made.chain.name(left)).exists()


def test_fits_of_older_code_are_none_of_this(made: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished or begun; a counter beside that of all fits is of those that its change touches."""
    cell, chain = learned(made), made.chain
    assert cells.code_of(made.config, cell) == {}
    others = ({"radius": 0.1}, {"fitted": (2, 3)}, {"method": "s4s-alt"}, {"method": "s4s-cfg-skip"},
              {"settings": {"moments": 1.0}})  # fmt: skip
    counted = [[*cells.code_of(made.config, replace(cell, **changed))] for changed in others]
    assert counted == [["code_relaxed"], ["code_curve"], ["code_grid"], ["code_skips", "code_grid"], ["code_moments"]]
    left = made.folder.unfinished(cell)
    for code, kept in ((cells.CODE["fit"], True), (cells.CODE["fit"] + 1, False)):
        chain.go_on(left, "fit", {}, {})
        left.write_bytes(b"left")
        monkeypatch.setitem(cells.CODE, "fit", code)
        with nullcontext() if kept else pytest.warns(s4s.errors.Notice, match="of another config"):
            chain.go_on(left, "fit", {}, {})
        assert left.exists() == kept
    assert made.folder.solver(cell) in chain.outdated()


@pytest.mark.parametrize(
    ("found", "wanted", "words"),
    [
        ({"code": 2, "learned": {"radius": 0.0}}, {"code": 2, "code_relaxed": 2, "learned": {"radius": 0.1}}, "radius"),
        (
            {"a": {"code": 1}, "b": {"n": 1}},
            {"a": {"code": 2}, "b": {"n": 2}},
            r"config \(b\.n = 1 there, 2 in this one",
        ),
        ({"code": 2, "n": 1}, {"code": 2, "code_moments": 2, "n": 1}, "another state of the code"),
    ],
)
def test_the_code_is_named_where_nothing_else_differs(found: dict, wanted: dict, words: str) -> None:
    assert re.search(words, records.another_config(found, wanted))


def test_what_to_do_about_a_result_is_a_command_that_there_is() -> None:
    """Of every stage that records anything."""
    said = [text for path in (ROOT / "s4s").rglob("*.py") for text in re.findall(r"chain\.note\(.*", path.read_text())]
    stages = {"gits", "even", *(name for line in said for name in re.findall(r'"(\w+)"', line))}
    assert {"textbook", "polish", "curve", "score", "table"} <= stages
    for stage in stages:
        assert records.again(stage).split("`")[1].split()[1] in cli.commands, stage
    assert records.again("config") == "run snakemake again"


def test_a_run_looks_at_the_tables_the_figures_and_the_page(made: Bench) -> None:
    """And not at files of somebody's own beside them."""
    chain, broken = made.chain, Path("broken.json")
    (made.folder.root / "figures" / "mine.png").write_bytes(b"mine")
    chain.mark_broken(broken)
    assert not broken.exists()
    for name in ("fid.csv", "tables/summary.md", "figures/samples.png", "report.html"):
        path = made.folder.root / name
        whole = path.read_bytes()
        os.truncate(path, 100)
        bench().chain.mark_broken(broken)
        assert f"{name}: has changed since it was made" in broken.read_text()
        broken.unlink()
        path.write_bytes(whole)


def test_results_without_records_are_refused_in_one_line(made: Bench) -> None:
    shutil.rmtree(made.folder.root / "records")
    for said in (typed("table", made), typed("figure", made)):
        assert "nothing says what it was made from; remove it and run snakemake" in said
    with pytest.raises(s4s.Error, match=r"ddim_edm_nfe2.json: nothing says what it was made from"):
        evaluate_cell(made, textbook(made))
    lines, follow = report(made.folder.root)
    assert not follow and len(lines) > 3


def test_a_result_copied_with_its_record_is_not_another(made: Bench) -> None:
    root, names = made.folder.root, sorted(path.name for path in (made.folder.root / "metrics").glob("*.json"))
    for where in (root / "metrics", root / "records" / "metrics"):
        suffix = ".json" if where.parent.name == "records" else ""
        shutil.copyfile(where / f"{names[0]}{suffix}", where / f"{names[1]}{suffix}")
    lines, follow = report(root)
    assert not follow and any("or is another file's" in line and names[1] in line for line in lines)


def test_files_of_results_that_are_gone(made: Bench) -> None:
    """Stages need what they read; `verify` says that the walk ends."""
    cell = learned(made)
    (made.folder.root / "teacher" / "pairs.safetensors").unlink()
    evaluate_cell(made, cell)
    assert not typed("table", made)
    lines, follow = report(made.folder.root)
    assert not follow and "pairs.safetensors: is not there" in lines[0]


def test_large_files_are_hashed_once_and_an_edit_that_keeps_size_and_date_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S4S_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(records, "LARGE", 10)
    monkeypatch.setattr(records, "SETTLED", 0.0)
    hashed: list[Path] = []
    monkeypatch.setattr(records, "sha256", lambda path: hashed.append(path) or s4s.files.sha256(path))
    (path := tmp_path / "large").write_bytes(bytes(100))
    first = records.content(path, exact=False)
    assert records.content(path, exact=False) == first and len(hashed) == 1
    change(path)
    assert records.content(path, exact=False) != first and records.content(path) != first
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "ab":
        (folder / f"{name}.png").write_bytes(bytes(20))
    one, count = records.content(folder, exact=False), len(hashed)
    assert records.content(folder, exact=False) == one == records.content(folder) and len(hashed) == count + 2
    (folder / "b.png").rename(folder / "c.png")
    assert records.content(folder, exact=False) != one


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LARGE", 10)
    monkeypatch.setattr(records, "SETTLED", 0.0)
    (tmp_path / "file").write_bytes(bytes(100))
    monkeypatch.setenv("S4S_CACHE", str(tmp_path / "file" / "cache"))
    assert records.content(tmp_path / "file", exact=False) == s4s.files.sha256(tmp_path / "file")


def test_a_record_that_names_itself_ends_the_walk(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    for name, other in (("a", "b"), ("b", "a")):
        digest = {each: s4s.files.sha256(tmp_path / each) for each in "ab"}
        records.Record("x", digest[name], reads={other: digest[other]}).write(tmp_path, name)
    assert not Chain(None, tmp_path).walk().faults("a")
