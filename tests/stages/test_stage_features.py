"""Features in shards: the same statistics however samples are cut, in any order, with the images kept or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from published import scaled
from published import world as world

import s4s
from s4s.cli.common import on_shards
from s4s.models import weights
from s4s.models.digits import Classifier
from s4s.score import metrics
from s4s.score.protocol import protocol
from s4s.stages import config
from s4s.stages.bench import Bench
from s4s.stages.cells import Cell, cell, cells, shards, teachers
from s4s.stages.download import download_model
from s4s.stages.evaluate import evaluate_cell
from s4s.stages.features import extract, extractor_of, feature_files, features_of_cells, make_features, read_shard
from s4s.stages.fit import fit_cell
from s4s.stages.sample import sample_cell, sample_cells


@pytest.fixture
def made(world: tuple[Path, str]) -> dict[str, Any]:
    """A scaled benchmark whose reference are images; its first cell is fitted."""
    made = scaled("cifar10", *world, Path("none"))
    made["learned"]["distance"] = "l2"
    bench = Bench(config.check(made), Path("results"))
    download_model(bench)
    fit_cell(bench, first(bench))
    return made


def first(bench: Bench) -> Cell:
    return next(c for c in cells(bench.config) if c.method == "classical")


def bench_of(made: dict[str, Any], results: str = "results", **changes: Any) -> Bench:
    """Sections of a benchmark changed."""
    sections = {key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value
                for key, value in made.items()}  # fmt: skip
    return Bench(config.check(sections), Path(results))


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        return {key: file[key] for key in file.files if key != "record"}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_a_sample_has_the_same_features_in_any_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    weights.save(Classifier(), Path("classifier.safetensors"), made_from={})
    bench = Bench(config.load(Path(__file__).parents[1] / "tiny" / "config.yaml"), Path("results"))
    monkeypatch.setattr("s4s.stages.features.extractor_files", lambda _: ([], [Path("classifier.safetensors")]))
    images = torch.randint(256, (600, 1, 8, 8), dtype=torch.uint8)
    whole = extract(bench, images, 0)
    assert whole.dtype == torch.float64 and extractor_of(bench).chunk == 250
    assert torch.equal(whole, protocol("digits").build(Path("classifier.safetensors"))(images)), "as without shards"
    for a, b in ((0, 1), (1, 250), (249, 251), (260, 600), (599, 600)):
        assert torch.equal(extract(bench, images[a:b], a), whole[a:b]), (a, b)


def test_any_order_and_any_cut_give_the_same_statistics(made: dict[str, Any]) -> None:
    bench = bench_of(made)
    chosen, files = first(bench), []
    for a, b in reversed(shards(bench.config)):
        make_features(bench, chosen, a, b)
    for a, b in shards(bench.config):
        path = bench.folder.features(chosen, a, b)
        before = arrays(path)
        make_features(bench, chosen, a, b)
        assert same(arrays(path), before)
        files.append(before)
    parts = [read_shard(path) for path in feature_files(bench, chosen)]
    features = torch.cat([part.features for part in parts if part.features is not None])
    whole, merged = metrics.Moments.of(features), metrics.Moments.merge(part.moments for part in parts)
    assert merged.count == whole.count == 40
    torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-13, atol=0)
    torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-14, atol=0)
    one = bench_of(made, sample={"shard_size": 40})
    make_features(one, chosen, 0, 40)
    assert np.array_equal(arrays(one.folder.features(chosen, 0, 40))["features"],
                          np.concatenate([file["features"] for file in files]))  # fmt: skip
    record = [json.loads(evaluate_cell(b, chosen).read_text()) for b in (bench, one)]
    assert record[0]["fid"] == pytest.approx(record[1]["fid"], rel=1e-12)
    assert [record[0][key] for key in ("kid", "precision", "recall", "n_samples")] == \
           [record[1][key] for key in ("kid", "precision", "recall", "n_samples")]  # fmt: skip


def test_features_are_kept_for_the_metrics_that_need_them(made: dict[str, Any]) -> None:
    path = make_features(bench := bench_of(made), chosen := first(bench), 0, 15)
    assert arrays(path)["features"].dtype == np.float32 and arrays(path)["images"].shape[0] == 15
    only = bench_of(made, score={"metrics": ["fid"], "bootstrap": 0})
    with pytest.raises(s4s.Error, match=r"made from another config \(kept = True there, False in this one\)"):
        feature_files(only, chosen)
    assert arrays(make_features(only, chosen, 0, 15)).keys() == {"count", "total", "shift", "outer", "images"}


def test_an_older_file_of_sums_about_0_is_read(made: dict[str, Any]) -> None:
    bench = bench_of(made)
    fid = json.loads(evaluate_cell(bench, chosen := first(bench)).read_text())["fid"]
    path = bench.folder.features(chosen, *shards(bench.config)[0])
    with np.load(path) as file:
        held = {key: file[key] for key in file.files if key != "shift"}
    rows = held["features"].astype(float)
    held |= {"total": rows.sum(0), "outer": (rows.T @ rows)[np.triu_indices(rows.shape[1])]}
    np.savez(path, **held)
    bench.chain.note(path, "features", bench.reads(bench.folder.solver(chosen)))
    written = path.read_bytes()
    assert json.loads(evaluate_cell(bench, chosen).read_text())["fid"] == pytest.approx(fid, rel=1e-9)
    assert path.read_bytes() == written


def test_images_are_kept_when_asked_and_change_nothing(made: dict[str, Any]) -> None:
    bench = bench_of(made)
    without = arrays(make_features(bench, chosen := first(bench), 15, 30))
    assert not list(Path("results").rglob("samples"))
    keep = bench_of(made, sample={"keep_images": True})
    assert same(arrays(make_features(keep, chosen, 15, 30)), without)
    kept = keep.folder.samples(chosen, 15, 30)
    assert np.array_equal(arrays(kept)["images"], without["images"])
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.raises(s4s.Error, match="has changed since it was made"):
        make_features(keep, chosen, 15, 30)
    assert same(arrays(make_features(bench, chosen, 15, 30)), without), "which keeps none, and needs none"


@pytest.mark.parametrize(("stage", "uint8"), [
    (features_of_cells, "edm"), (sample_cells, "edm"), (sample_cells, "none"),
])  # fmt: skip
def test_cells_made_together_are_as_each_alone(
    made: dict[str, Any], stage: Any, uint8: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their features, images or last states; evaluations that they share are asked for once."""
    bench = bench_of(made, sample={"uint8": uint8})
    chosen = [c for c in cells(bench.config) if c.method == "classical" and c.nfe == first(bench).nfe]
    for each in chosen:
        fit_cell(bench, each)
    asked, denoiser = list[int](), bench.denoiser

    def counted(rows: range) -> Any:
        def network(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            asked.append(len(x))
            return denoiser(rows)(x, sigma)

        return network

    monkeypatch.setattr(bench, "denoiser", counted)
    together = [arrays(path) for path in stage(bench, chosen, 5, 25)]
    calls = len(asked)
    assert all(same(arrays(*stage(bench, [each], 5, 25)), found) for each, found in zip(chosen, together, strict=True))
    assert len(chosen) > 2 and calls < len(asked) - calls


def test_a_command_makes_those_of_a_method_and_nfe_together(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever order they are named."""
    asked: list[tuple[list[str], int, int]] = []
    monkeypatch.setattr("s4s.cli.common.open_model", lambda *_: None)
    names = [f"classical_{name}_nfe{nfe}" for name in ("ddim_edm", "ipndm3_edm") for nfe in (4, 6)]
    path = Path(__file__).parents[2] / "config" / "digits.yaml"
    stage = lambda _, some, a, b: asked.append(([each.name for each in some], a, b)) or []  # type: ignore[func-returns-value]
    on_shards(stage, path, names, 0, 200, Path("results"))
    assert asked == [(names[::2], 0, 200), (names[1::2], 0, 200)]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_damaged_and_missing_shards_are_made_anew(made: dict[str, Any], share: float) -> None:
    bench = bench_of(made)
    chosen = first(bench)
    whole = json.loads(evaluate_cell(bench, chosen).read_text())
    paths = [bench.folder.features(chosen, a, b) for a, b in shards(bench.config)]
    before = [arrays(path) for path in paths]
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[: int(share * paths[1].stat().st_size)])
    paths[2].write_bytes(paths[0].with_name(paths[1].name).read_bytes()[:10] if share else b"")
    again = json.loads(evaluate_cell(bench, chosen).read_text())
    assert all(same(arrays(path), arrays_before) for path, arrays_before in zip(paths, before, strict=True))
    assert {k: v for k, v in again.items() if k != "sample_seconds"} == \
           {k: v for k, v in whole.items() if k != "sample_seconds"}  # fmt: skip


def test_features_of_another_solver_are_not_used(made: dict[str, Any]) -> None:
    bench = bench_of(made)
    chosen = first(bench)
    old = json.loads(evaluate_cell(bench, chosen).read_text())
    path = bench.folder.solver(chosen)
    s4s.load_solver(path).replace(weight=s4s.load_solver(path).weight * 0.9).save(path)
    with pytest.raises(s4s.Error, match=r"has changed since it was made: SHA-256 .* run `s4s fit` again"):
        evaluate_cell(bench, chosen)
    bench.chain.note(path, "textbook", bench.reads())
    assert json.loads(evaluate_cell(bench, chosen).read_text())["fid"] != old["fid"]
    assert len(teachers(bench.config)) == 1 and cell(bench.config, chosen.name) == chosen
    sample_cell(bench, chosen, 0, 15)
    fit_cell(bench, chosen)
    assert json.loads(evaluate_cell(bench, chosen).read_text())["fid"] == old["fid"], "old images are passed over"
