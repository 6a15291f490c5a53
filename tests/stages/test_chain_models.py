"""Files that are no results: a model folder, prompts, a reference. What was made from others is not used."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extractors import register
from pipelines import ddim, ddpm_folder, edit_json, listed, unet
from stable import stable as stable

import s4s
from s4s.stages import config
from s4s.stages.bench import Bench
from s4s.stages.cells import Cell, cells
from s4s.stages.chain import given
from s4s.stages.download import download_model
from s4s.stages.evaluate import evaluate_cell
from s4s.stages.fit import fit_cell
from s4s.stages.sample import sample_cell
from s4s.stages.verify import report

MINE: dict[str, Any] = {
    "benchmark": "mine",
    "device": "cpu",
    "model": {"type": "diffusers", "path": "mine", "batch": 10},
    "teacher": {"solver": {"name": "ddim"}, "schedule": "logsnr", "nfe": 4},
    "nfe": [2],
    "classical": {"solvers": [{"name": "ddim"}], "schedules": ["logsnr"]},
    "learned": {"methods": [], "starts": []},
    "sample": {"n": 20},
    "score": {
        "protocol": "edm",
        "reference": {"kind": "npz", "where": "ref.npz"},
        "extractor": {"name": "dummy", "layer": "6", "weights": "extractor.pt"},
    },
}


def reference(seed: int) -> None:
    features = np.random.default_rng(seed).normal(size=(50, 6))
    np.savez("ref.npz", mu=features.mean(0), sigma=np.cov(features.T))


def saved(seed: int) -> None:
    """The model, trained once more and saved where it was, with the dates of the first time."""
    net, times = unet(), {path: path.stat().st_mtime for path in Path("mine").rglob("*.*")}
    with torch.no_grad():
        net.conv_out.weight.add_(torch.randn(net.conv_out.weight.shape, generator=torch.Generator().manual_seed(seed)))
    ddpm_folder(Path("mine"), net, ddim())
    for path, time in times.items():
        os.utime(path, (time, time))


def bench(**changes: Any) -> Bench:
    made = json.loads(json.dumps(MINE))
    for section, values in changes.items():
        made[section] = {**made[section], **values}
    return Bench(config.check(made), Path("results"))


def textbook(made: Bench) -> Cell:
    return next(cell for cell in cells(made.config) if cell.method == "classical")


def scored(made: Bench) -> Path:
    """By hand, every stage of the textbook cell."""
    download_model(made)
    fit_cell(made, textbook(made))
    return evaluate_cell(made, textbook(made))


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A model folder, a reference, an extractor, and a cell that was scored with them."""
    monkeypatch.chdir(tmp_path)
    register()
    torch.save({"matrix": torch.eye(6)}, "extractor.pt")
    reference(0)
    saved(0)
    scored(made := bench())
    assert report(made.folder.root)[1]
    return made


def weights() -> None:
    saved(1)


def scheduler() -> None:
    edit_json(Path("mine/scheduler/scheduler_config.json"), beta_end=0.03)


def index() -> None:
    edit_json(Path("mine/model_index.json"), scheduler=["diffusers", "DDPMScheduler"])


@pytest.mark.parametrize("change", [weights, scheduler, index])
def test_a_model_that_changed_in_place(mine: Bench, change: Callable[[], None]) -> None:
    """Typed by hand, in any order, nothing old is used; after `s4s download`, all that depends on it is made again."""
    before, cell = given(mine.config, "train"), textbook(mine)
    change()
    assert given(mine.config, "train") != before, "which Snakemake sees when it starts"
    named = r"weights.json: made from .*mine/.*(json|safetensors) with SHA-256 .*, which now has"
    for stage in (fit_cell, evaluate_cell, lambda b, c: sample_cell(b, c, 0, 20)):
        for made in (mine, bench()):
            with pytest.raises(s4s.Error, match=named):
                stage(made, cell)
    lines, follow = report(mine.folder.root)
    assert not follow and "mine/" in lines[0]
    old = mine.folder.weights.read_bytes()
    download_model(mine)
    assert mine.folder.weights.read_bytes() != old
    with pytest.raises(s4s.Error, match=r"ddim_logsnr_nfe2.json: made from .*weights.json with SHA-256"):
        evaluate_cell(mine, cell)
    scored(mine)
    assert report(mine.folder.root)[1]
    made = json.loads(mine.folder.metrics(cell).read_text())["provenance"]["model"]["files_sha256"]
    assert made["unet/diffusion_pytorch_model.safetensors"] == s4s.files.sha256(
        Path("mine/unet/diffusion_pytorch_model.safetensors")
    )


def test_a_file_beside_the_weights_is_seen(mine: Bench) -> None:
    """Loaders prefer one file to another: a new one is another model."""
    shutil.copyfile("mine/unet/config.json", "mine/unet/extra.json")
    with pytest.raises(s4s.Error, match=r"whose unet/extra.json had SHA-256 None; .*run `s4s download` again"):
        _ = bench().model
    download_model(made := bench())
    assert made.model


def test_a_second_download_of_the_same_model_changes_nothing(mine: Bench) -> None:
    before = mine.folder.weights.stat().st_mtime_ns
    for path in Path("mine").rglob("*.*"):
        os.utime(path)
    download_model(bench())
    assert mine.folder.weights.stat().st_mtime_ns == before and report(mine.folder.root)[1]


def extractor() -> None:
    torch.save({"matrix": 2 * torch.eye(6)}, "extractor.pt")


@pytest.mark.parametrize(("change", "name"), [(lambda: reference(1), "ref.npz"), (extractor, "extractor.pt")])
def test_a_reference_or_extractor_that_was_replaced(mine: Bench, change: Callable[[], None], name: str) -> None:
    before, cell = given(mine.config, "score"), textbook(mine)
    old = json.loads(mine.folder.metrics(cell).read_text())["fid"]
    change()
    assert given(mine.config, "score") != before
    with pytest.raises(
        s4s.Error, match=rf"nfe2.*: made from .*{name} with SHA-256 .*run `s4s (evaluate|features)` again"
    ):
        mine.chain.read(mine.folder.metrics(cell))
    lines, follow = report(mine.folder.root)
    assert not follow and name in lines[0]
    assert json.loads(evaluate_cell(mine, cell).read_text())["fid"] != old, "the same bench, and what is there now"
    assert report(mine.folder.root)[1]


def test_a_reference_that_is_not_here_is_listed_and_breaks_nothing(mine: Bench) -> None:
    Path("ref.npz").rename("moved.npz")
    lines, follow = report(mine.folder.root)
    assert follow and lines[0] == "not checked, for it is not on this machine: ref.npz"


def test_prompts_that_were_edited(stable: tuple[Path, Any], mine: Bench) -> None:
    shutil.copytree(stable[0], "sd")
    prompts = listed(Path(), 7)
    model = {"type": "stable-diffusion", "path": "sd", "prompts": str(prompts), "n_prompts": 7, "batch": 5}

    def made(n: int) -> Bench:
        sections = json.loads(json.dumps(MINE)) | {
            "benchmark": "sd",
            "model": model,
            "sample": {"n": n, "shard_size": 5},
        }
        return Bench(config.check(sections), Path("results"))

    scored(made(5))
    again = json.loads(evaluate_cell(made(10), cell := textbook(made(10))).read_text())
    assert again["n_samples"] == 10 and again["protocol"]["prompts_repeat"] is True, "more samples than prompts"
    assert report(Path("results/sd"))[1]
    for path in (prompts, next(Path("sd/tokenizer").glob("*.json")), Path("sd/text_encoder/config.json")):
        path.write_text(path.read_text() + "\n")
        with pytest.raises(s4s.Error, match=rf"weights.json: made from .*{path.name} with SHA-256"):
            evaluate_cell(made(10), cell)
        assert path.name in "".join(report(Path("results/sd"))[0])
        scored(made(10))
        assert report(Path("results/sd"))[1]
