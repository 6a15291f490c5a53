"""What the stages do that the runs of whole benchmarks do not show: refusals, shards, decoded fits, half precision."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import nvidia_pickle as nvidia
import pytest
import torch
from pipelines import autoencoder, ddim, transformer
from published import scaled
from published import world as world

import s4s
from s4s.files import sha256
from s4s.stages import config
from s4s.stages.bench import Bench
from s4s.stages.cells import cells, teacher_files, teachers
from s4s.stages.download import download_model
from s4s.stages.evaluate import evaluate_cell
from s4s.stages.fit import distance_of, fit_cell
from s4s.stages.networks import train_network
from s4s.stages.sample import sample_cell
from s4s.stages.teacher import make_teacher, teacher_pairs

diffusers = pytest.importorskip("diffusers")


def bench_of(made: dict[str, Any]) -> Bench:
    return Bench(config.check(made), Path("results"))


def small(world: tuple[Path, str], name: str = "ffhq", **changes: Any) -> dict[str, Any]:
    """A scaled benchmark with L2 as the distance, and sections changed."""
    made = scaled(name, *world, Path("none"))
    made["learned"]["distance"] = "l2"
    return {key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value for key, value in made.items()}


def test_teachers_in_shards_are_the_same_set(world: tuple[Path, str]) -> None:
    made = small(world)
    bench = bench_of(made)
    download_model(bench)
    (teacher,) = teachers(bench.config)
    files = teacher_files(bench.config, teacher)
    assert list(files.values()) == [(0, 20), (20, 32)]
    for first, last in files.values():
        make_teacher(bench, teacher, first, last)
    sharded = teacher_pairs(bench, teacher)
    del made["teacher"]["shard_size"]
    whole = bench_of(made)
    make_teacher(whole, teacher, 0, 32)
    assert (whole.folder.root / "teacher" / "pairs.safetensors").exists()
    assert torch.equal(teacher_pairs(whole, teacher).y, sharded.y) and len(sharded) == 32
    (bench.folder.root / "teacher" / "000020-000032.safetensors").unlink()
    with pytest.raises(s4s.Error, match=r"000020-000032.safetensors: cannot read it .*; run `s4s teacher` first"):
        teacher_pairs(bench, teacher)


def test_a_second_download_changes_nothing_and_damage_is_repaired(world: tuple[Path, str]) -> None:
    bench = bench_of(small(world))
    download_model(bench)
    weights = bench.folder.model("denoiser")
    times = [os.stat(path).st_mtime_ns for path in (weights, bench.folder.weights)]
    download_model(bench, offline=True)
    assert times == [os.stat(path).st_mtime_ns for path in (weights, bench.folder.weights)]
    digest = sha256(weights)
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(s4s.Error, match=r"denoiser.safetensors: has changed since it was made"):
        _ = bench.model
    download_model(bench, offline=True)
    assert sha256(weights) == digest


def refused(made: dict[str, Any], **options: Any) -> str:
    """The one line with which a download ends; nothing is left in the results."""
    with pytest.raises(s4s.Error) as caught:
        download_model(bench_of(made), **options)
    assert "\n" not in str(caught.value) and not list(Path("results").rglob("*.*"))
    return str(caught.value)


def test_downloads_that_are_refused(world: tuple[Path, str]) -> None:
    folder, url = world
    made = small(world)
    given = made["model"]["weights"]

    def under(**weights: Any) -> dict[str, Any]:
        return {**made, "model": {**made["model"], "weights": weights}}

    line = refused(under(**given), offline=True)
    assert "ffhq.pkl: cannot fetch http" in line and "offline mode is on" in line and str(Path.cwd()) in line
    assert "has SHA-256" in refused(under(**given | {"sha256": "0" * 64}))
    line = refused(under(url=given["url"]))
    assert "no SHA-256 to check it against" in line and given["sha256"] in line and "model.weights.sha256" in line
    assert "answers 404" in refused(under(url=f"{url}/none.pkl", sha256="0" * 64))
    assert "gone.pkl: no such file (model.weights.path)" in refused(under(path="gone.pkl"))
    local = folder / "ffhq.pkl"
    assert "damaged or another file" in refused(under(path=str(local), sha256="0" * 64))
    (folder / "evil.pkl").write_bytes(nvidia.dump({"ema": nvidia.Call(nvidia.Name("os", "system"), ("touch x",))}))
    assert "os.system" in refused(under(path=str(folder / "evil.pkl"), allow_unverified=True))
    assert not Path("x").exists()


def test_zip_files_that_are_refused(world: tuple[Path, str]) -> None:
    folder, _ = world
    archive = folder / "weights.zip"

    def line(member: str = "model.ckpt") -> str:
        made = small(world, "lsun_bedroom")
        made["model"]["weights"] = {"path": str(archive), "member": member, "allow_unverified": True}
        return refused(made)

    archive.write_bytes(b"PK nothing")
    assert "cannot unpack 'model.ckpt'" in line()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model.ckpt", b"\0" * 30_000_000)
    assert "would unfold to 30,000,000 bytes" in line()
    assert "has no member 'other.ckpt'" in line("other.ckpt")
    assert not list(Path("cache").rglob("*.ckpt"))


def test_commands_for_the_other_kind_of_model(world: tuple[Path, str]) -> None:
    with pytest.raises(s4s.Error, match="run `s4s download` instead"):
        train_network(bench_of(small(world)), "denoiser")
    digits = Bench(config.load(Path(__file__).parents[1] / "tiny" / "config.yaml"), Path("results"))
    with pytest.raises(s4s.Error, match="run `s4s train` instead"):
        download_model(digits)
    with pytest.raises(s4s.Error, match=r"weights.json: cannot read it .*; run `s4s download` first"):
        _ = bench_of(small(world)).model
    if not torch.cuda.is_available():
        with pytest.raises(s4s.Error, match="finds no cuda device"):
            _ = bench_of(small(world) | {"device": "cuda"}).device


def test_results_of_other_weights_are_refused(world: tuple[Path, str]) -> None:
    made = small(world)
    download_model(bench_of(made))
    made["model"]["dtype"] = "bfloat16"
    with pytest.raises(s4s.Error, match=r"made from another config \(model.dtype = None there, 'bfloat16' in this one"):
        _ = bench_of(made).model


def test_latent_fits_may_compare_images(world: tuple[Path, str]) -> None:
    made = small(world, "imagenet256", learned={"space": "images", "distance": {"l2": 2.0}})
    bench = bench_of(made)
    download_model(bench)
    distance, x = distance_of(bench), torch.randn(2, 2, 3, 8, 8)
    a, b = (bench.model.decode(z) for z in x)
    torch.testing.assert_close(distance(*x), 2 * (a - b).square().flatten(1).mean(1))
    assert distance.name.endswith("decoded")
    made["learned"]["space"] = "latents"
    torch.testing.assert_close(distance_of(bench_of(made))(*x), 2 * (x[0] - x[1]).square().flatten(1).mean(1))


def test_fits_through_networks_in_half_precision(world: tuple[Path, str]) -> None:
    made = small(world, "imagenet256", model={"dtype": "bfloat16"}, learned={"rounds": 1, "microbatch": 8})
    bench = bench_of(made)
    download_model(bench)
    (teacher,) = teachers(bench.config)
    for first, last in teacher_files(bench.config, teacher).values():
        assert make_teacher(bench, teacher, first, last)
    assert teacher_pairs(bench, teacher).y.dtype == torch.float32
    learned = next(c for c in cells(bench.config) if c.learned)
    fit_cell(bench, learned)
    fit = json.loads(bench.folder.fit(learned).read_text())
    assert fit["val_loss"] < 0.3 * fit["start_loss"], fit


def test_a_diffusers_model_of_your_own(world: tuple[Path, str]) -> None:
    folder, _ = world
    pipe = diffusers.DiTPipeline(transformer(), autoencoder(), ddim())
    pipe.save_pretrained(folder / "mine")
    made = small(world, "imagenet256", score={"protocol": "adm"})
    made["score"]["extractor"]["name"] = "dummy"
    made["model"] = {
        "type": "diffusers",
        "path": str(folder / "mine"),
        "guidance": 2.0,
        "classes": "random",
        "batch": 10,
    }
    bench = bench_of(made)
    download_model(bench)
    for teacher in teachers(bench.config):
        for first, last in teacher_files(bench.config, teacher).values():
            make_teacher(bench, teacher, first, last)
    chosen = next(c for c in cells(bench.config) if c.method == "s4s-alt" and c.nfe == 4)
    fit_cell(bench, chosen)
    for first, last in ((0, 15), (15, 30), (30, 40)):
        sample_cell(bench, chosen, first, last)
    record = json.loads(evaluate_cell(bench, chosen).read_text())
    assert record["protocol"]["classes"] == {"plan": "random", "seed": 0, "count": 6}
    assert record["provenance"]["model"]["files_sha256"] and record["protocol"]["uint8"] == "ldm"
    assert "classes" not in record["protocol"]["changed"], "ADM's plan on ImageNet is random"
