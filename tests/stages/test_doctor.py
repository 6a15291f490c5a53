"""``s4s doctor``: what is there, what is missing and how to get it, for each kind of model; the network is cut."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import compvis_layout as compvis
import numpy as np
import nvidia_pickle
import pytest
import torch
from PIL import Image

from s4s.cli.main import main
from s4s.learn import lpips
from s4s.models import weights
from s4s.models.captions import COCO_30K
from s4s.models.digits import Classifier
from s4s.score.features import INCEPTION
from s4s.stages import doctor, present, written
from s4s.stages.config import check, load
from s4s.stages.present import Item

CONFIG = Path(__file__).parents[2] / "config" / "digits.yaml"
URL = "https://example.org/weights/net.pkl?x=1"
FREE = 60 << 30  # bytes on the disk: what other programs do there changes no test


@pytest.fixture(autouse=True)
def cut(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        pytest.fail("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=FREE))
    monkeypatch.chdir(tmp_path)


def benchmark(model: dict[str, Any], score: dict[str, Any] | None = None, **learned: Any) -> dict[str, Any]:
    """The digits benchmark around another model, scored with an extractor and a reference of one's own."""
    own = {"protocol": "edm", "reference": {"kind": "folder", "where": "real"},
           "extractor": {"name": "vgg16", "layer": "fc2_relu", "weights": "features.safetensors"}}  # fmt: skip
    config = load(CONFIG)
    made = config | {"model": model, "score": score or own, "learned": config["learned"] | {"distance": "l2"} | learned}
    return check({key: value for key, value in made.items() if key != "process" or model["type"] == "edm"})


def items(config: dict[str, Any]) -> dict[str, Item]:
    return {item.name: item for item in doctor.benchmark(config, Path("results"))}


def missing(config: dict[str, Any]) -> set[str]:
    return {name for name, item in items(config).items() if item.state == "missing"}


@pytest.fixture
def scored(tmp_path: Path) -> None:
    """What the benchmarks of ``benchmark`` are scored with."""
    (tmp_path / "real").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "real" / "1.png")
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "real" / "2.png")
    weights.save(Classifier(), tmp_path / "features.safetensors")


def place(cache: Path, url: str, data: bytes) -> tuple[Path, str]:
    """Put a file where the message for it says."""
    path = cache / "weights" / hashlib.sha256(url.encode()).hexdigest()[:8] / "net.pkl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path, hashlib.sha256(data).hexdigest()


# The report


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *arguments])
    printed = capsys.readouterr()
    assert "s4s:" not in printed.err
    return int(str(caught.value.code or 0)), printed.out.splitlines()


def test_the_digits_need_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = run(capsys, str(CONFIG))
    assert status == 0
    text = "\n".join(lines)
    for part in ("torch 2.", "cores", "cache", "$S4S_CACHE", str(CONFIG), "trained by the pipeline", "GiB needed",
                 "network evaluations of 0.012 GFLOP", "0.04 TFLOP/s of one CPU core"):  # fmt: skip
        assert part in text
    names = [line[11:22] for line in lines if line.startswith("  ") and line[11:22].strip()]
    assert {"versions   ", "networks   ", "reference  ", "disk       ", "memory     ", "time       "} <= set(names)
    assert all(len(line) <= 123 and line == line.rstrip() for line in lines)
    assert doctor.ADVICE not in lines


def test_a_broken_config_does_not_hide_the_others(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("benchmark: bad\n")
    status, lines = run(capsys, "bad.yaml", "none.yaml", str(CONFIG))
    assert status == 1 and doctor.ADVICE not in lines, "nothing of it can be fetched"
    assert sum(line.startswith("  missing  config") for line in lines) == 2
    assert any(line.startswith("  ok       networks") for line in lines)


def test_the_hint_at_downloads_stands_where_something_has_an_address(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    spec = {"type": "edm", "weights": {"url": URL}}
    written.save(benchmark(spec, {"protocol": "edm", "data": "cifar10"}), tmp_path / "mine.yaml")
    status, lines = run(capsys, str(CONFIG), "mine.yaml")
    assert status == 1 and lines[-1] == doctor.ADVICE


@pytest.mark.parametrize(
    ("value", "decimals", "shown"),
    [(0, 1, "0.0"), (0.000123, 1, "0.00012"), (0.96, 1, "0.96"), (1.04, 1, "1.0"), (1234.56, 1, "1,234.6"),
     (0.0128, 2, "0.013"), (0.123, 2, "0.12"), (42.25, 2, "42.25")],
)  # fmt: skip
def test_small_numbers_keep_two_digits(value: float, decimals: int, shown: str) -> None:
    assert doctor._number(value, decimals) == shown


def test_without_arguments_it_takes_the_configs_of_the_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys)[0] == 0
    Path("config").mkdir()
    Path("config/mine.yaml").write_text(CONFIG.read_text())
    assert "config/mine.yaml" in run(capsys)[1]


def test_too_little_disk_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing(load(CONFIG)) == set()
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1 << 20))
    assert missing(load(CONFIG)) == {"disk"}


def test_hours_are_the_counted_operations_over_the_stated_rate() -> None:
    config = benchmark({"type": "edm", "weights": {"url": URL}}, {"protocol": "edm", "data": "cifar10"})
    lines = {rate: [item.text for item in doctor.benchmark(config, Path("results"), rate)][-2:] for rate in (None, 5.0)}
    slow, fast = (float(lines[rate][0].split()[1]) for rate in (5.0, None))
    assert slow == pytest.approx(2 * fast, rel=0.1)
    assert "42.25 GFLOP, at an assumed 10 TFLOP/s of a GPU of the A100's class in float32" in lines[None][1]
    assert "5 TFLOP/s of a GPU, as stated" in lines[5.0][1]


# What each model needs


PUBLISHED = {"cifar10", "ffhq", "afhqv2", "lsun_bedroom", "imagenet256", "mscoco"}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_published_benchmarks(name: str) -> None:
    pytest.importorskip("diffusers")
    found = items(load(CONFIG.with_name(f"{name}.yaml")))
    lacking = {key for key, item in found.items() if item.state == "missing"} - {"disk"}
    assert {"weights", "extractor", "reference"} <= lacking <= {*found}
    assert all("put it at" in found[key].text for key in lacking - {"weights", "reference"})
    assert "https://" in found["weights"].text and ("https://" in found["reference"].text) == (name != "mscoco")
    assert ("captions" in found) == (name == "mscoco")
    assert name != "mscoco" or "Google Drive id" in found["reference"].text
    hours, evaluations = float(found["time"].text.split()[1].replace(",", "")), found[""].text.split()[0]
    assert 10 < hours < 5000 and int(evaluations.replace(",", "")) > 1e7


def test_everything_that_is_missing_says_how_to_get_it(cache: Path) -> None:
    digest = "ab" * 32
    spec = {"type": "edm", "weights": {"url": URL, "sha256": digest, "licence": "CC BY-NC-SA 4.0"}}
    found = items(benchmark(spec, {"protocol": "edm", "data": "cifar10"}, distance="lpips"))
    assert {name for name, item in found.items() if item.state == "missing"} == {
        "weights", "extractor", "reference", "LPIPS",
    }  # fmt: skip
    place = hashlib.sha256(URL.encode()).hexdigest()[:8]
    for name, parts in {
        "weights": (URL, str(cache / "weights" / place / "net.pkl"), digest),
        "extractor": (INCEPTION.url, str(cache / INCEPTION.file), INCEPTION.sha256_prefix),
        "reference": ("https://nvlabs-fi-cdn.nvidia.com/edm/fid-refs/cifar10-32x32.npz", str(cache / "references")),
        "LPIPS": (lpips.HEADS, str(cache / "lpips-vgg-heads.pth"), lpips.HEADS_SHA256),
    }.items():
        assert all(part in found[name].text for part in parts), found[name]
    assert "GPU hours" in found["time"].text and "GPU: " in found["memory"].text


@pytest.mark.usefixtures("scored")
def test_published_weights(cache: Path) -> None:
    data = nvidia_pickle.honest()
    path, digest = place(cache, URL, data)
    good = {"url": URL, "sha256": digest.upper()}
    found = items(benchmark({"type": "edm", "weights": good}))
    assert found["weights"] == Item("ok", "weights", f"{path}, SHA-256 {digest}; the pipeline converts it")
    assert found["costs"].state == "" and "once the network's sizes are known" in found["costs"].text
    for weights_, message in (
        ({"url": URL, "sha256": "0" * 64}, f"has SHA-256 {digest}, not {'0' * 64}"),
        ({"path": str(path), "sha256": "0" * 64}, f"has SHA-256 {digest}, not {'0' * 64}"),
        ({"url": URL}, f"this file's is {digest}: compare it with the publisher's and set model.weights.sha256"),
        ({"path": "nowhere.pkl", "sha256": digest}, "nowhere.pkl: no such file (model.weights.path)"),
    ):
        item = items(benchmark({"type": "edm", "weights": weights_}))["weights"]
        assert item.state == "missing" and message in item.text
    item = items(benchmark({"type": "edm", "weights": {"path": str(path), "allow_unverified": True}}))["weights"]
    assert item.state == "ok" and "not verified" in item.text


@pytest.mark.usefixtures("scored")
def test_imported_weights_are_held_to_their_record(tmp_path: Path) -> None:
    out = Path("results/digits/models/denoiser.safetensors")
    (tmp_path / "net.pkl").write_bytes(nvidia_pickle.honest())
    with pytest.raises(SystemExit):
        main(["import", "edm", "net.pkl", "--out", str(out), "--allow-unverified"])
    config = benchmark({"type": "edm", "weights": {"url": URL}})
    found = items(config)
    assert missing(config) == {"channels"}, "vgg16 takes three"
    assert "imported from net.pkl" in found["weights"].text
    assert re.search(
        r"network evaluations of 0\.0+[1-9]\d GFLOP", found[""].text
    )  # counted from the record: four pixels a side
    out.write_bytes(out.read_bytes()[:-4])
    assert "not the weights that the .json file beside it describes" in items(config)["weights"].text
    out.with_suffix(".json").unlink()
    assert items(config)["weights"].state == "missing"


@pytest.mark.usefixtures("scored")
def test_latent_diffusion(cache: Path) -> None:
    pytest.importorskip("diffusers")
    spec: dict[str, Any] = {"type": "ldm", "kind": "lsun_bedroom", "weights": {"url": URL}}
    found = items(benchmark(spec | {"first_stage": {"url": URL}}))
    assert [found[name].state for name in ("weights", "first stage")] == ["missing", "missing"]
    path, digest = place(cache, URL, compvis.honest())
    found = items(benchmark(spec | {"weights": {"url": URL, "sha256": digest}}))
    assert found["weights"].state == "ok" and str(path) in found["weights"].text and "time" in found


@pytest.mark.usefixtures("scored")
def test_stable_diffusion_of_the_hub() -> None:
    pytest.importorskip("diffusers")
    found = items(benchmark({"type": "stable-diffusion"}))
    assert {name for name, item in found.items() if item.state == "missing"} >= {"weights", "captions"}
    for part in ("CompVis/stable-diffusion-v1-4", "7f210fac", "text_encoder", "hub"):
        assert part in found["weights"].text
    assert COCO_30K.url in found["captions"].text and COCO_30K.sha256 in found["captions"].text
    Path("prompts.txt").write_text("a\nb\n")
    for n, state in ((2, "ok"), (3, "missing")):
        spec = {"type": "stable-diffusion", "prompts": "prompts.txt", "n_prompts": n}
        assert items(benchmark(spec))["captions"].state == state


@pytest.mark.usefixtures("scored")
def test_a_folder_of_your_own(tmp_path: Path) -> None:
    diffusers = pytest.importorskip("diffusers")
    config = benchmark({"type": "diffusers", "path": "mine"})
    assert missing(config) == {"weights"}
    net = diffusers.UNet2DModel(sample_size=8, block_out_channels=(32, 32), norm_num_groups=8, layers_per_block=1,
                                down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)  # fmt: skip
    net.save_pretrained("mine/unet")
    assert missing(config) == {"weights"}
    index = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    Path("mine/model_index.json").write_text(json.dumps(index))
    assert missing(config) == {"weights"}
    diffusers.DDPMScheduler(beta_schedule="laplace").save_pretrained("mine/scheduler")
    found = items(config)
    assert missing(config) == set() and "1 files of weights; unet/" in found["weights"].text
    assert "network evaluations of 0.0" in found[""].text and "GPU hours" in found["time"].text
    for size, shown in (([8, 16], "0.0"), (None, "does not say its sample_size")):
        net.register_to_config(sample_size=size)
        net.save_config("mine/unet")
        assert shown in items(config)["" if size else "weights"].text
    given = items(benchmark({"type": "diffusers", "path": "mine", "sample_size": 8}))
    assert given["weights"].state == "ok" and given["disk"] == found["disk"]
    assert given["disk"].text.endswith(", 60.0 free at results")
    for part in ("unet", "scheduler"):  # a flat folder
        for file in Path("mine", part).iterdir():
            file.rename(Path("mine", file.name))
        Path("mine", part).rmdir()
    flat = items(benchmark({"type": "diffusers", "path": "mine", "sample_size": 8}))
    assert flat["disk"] == found["disk"] and "; diffusion_pytorch_model.safetensors has SHA" in flat["weights"].text
    Path("mine/config.json").write_text("{")
    assert "cannot be counted" in items(config)["costs"].text
    Path("mine/config.json").write_text('{"_class_name": "UNet7DModel"}')
    assert "its unet cannot be traced" in items(config)["costs"].text


def test_packages_that_are_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(present, "version", lambda name: None)
    found = [item for item in doctor.benchmark(benchmark({"type": "diffusers", "path": "x"}), Path("results"))]
    assert found[0] == Item("missing", "package", "diffusers is not installed; pip install 's4s[diffusers]'")


# What scores


def test_extractor_and_reference(cache: Path, scored: None) -> None:
    spec = {"type": "edm", "weights": {"url": URL}}
    found = items(benchmark(spec))
    assert "features.safetensors, SHA-256" in found["extractor"].text
    assert found["reference"] == Item("ok", "reference", "folder real, images of [3, 8, 8]")
    cache.mkdir()
    (cache / INCEPTION.file).write_bytes(b"something else")
    npz = {"kind": "npz", "where": "ref.npz"}
    np.savez("ref.npz", mu=np.zeros(5), sigma=np.eye(5))
    found = items(benchmark(spec, {"protocol": "edm", "reference": npz}))
    assert found["extractor"].state == "missing" and "should begin with 6726825d" in found["extractor"].text
    assert found["reference"].state == "ok" and "none published" in found["reference"].text
    Path("ref.npz").write_bytes(Path("ref.npz").read_bytes()[:100])
    assert (
        "cannot read the reference statistics"
        in items(benchmark(spec, {"protocol": "edm", "reference": npz}))["reference"].text
    )
    own = {"protocol": "edm", "reference": npz, "extractor": {"name": "vgg16", "layer": "fc2_relu", "weights": "gone"}}
    assert "gone: no such file (score.extractor.weights)" in items(benchmark(spec, own))["extractor"].text
    own["extractor"] = {"name": "dinov2-vit-s-14", "layer": "dinov2"}
    found = items(benchmark(spec, own))["extractor"]
    assert found.state == "missing" and "executes code that it fetches" in found.text


def test_lpips_that_is_there(cache: Path, scored: None) -> None:
    cache.mkdir()
    torch.save({}, cache / "lpips-vgg16.safetensors")
    spec = {"type": "edm", "weights": {"url": URL}}
    assert items(benchmark(spec, distance={"lpips": 1.0, "l2": 0.5}))["LPIPS"].state == "ok"
    assert "LPIPS" not in items(benchmark(spec, distance="l2"))
