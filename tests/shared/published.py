"""The six published benchmarks scaled down: their own configs, with tiny random models in the original layouts.

Files are served over HTTP on this machine, as the originals are by their publishers.
"""

from __future__ import annotations

import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import compvis_layout as compvis
import numpy as np
import nvidia_pickle as nvidia
import pytest
import torch
import yaml
from extractors import register
from PIL import Image
from safetensors.torch import save_file

from s4s.files import sha256
from s4s.learn.lpips import VGG16
from s4s.models.ddpmpp import UNetConfig
from s4s.models.ldm import LDMConfig
from s4s.stages import bench

ROOT = Path(__file__).parents[2]
NAMES = ("cifar10", "ffhq", "afhqv2", "lsun_bedroom", "imagenet256", "mscoco")
PIXELS = UNetConfig(16, channels=3, augment_dim=2, model_channels=4, channel_mult=(1, 2), blocks=1, attention=(8,))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address under which the files of a folder can be fetched."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, str]]:
    """An empty folder to work in; one in it whose files are served, and its address."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "WARMUP", 20)  # of 256: noises that GITS averages over
    (tmp_path / "files").mkdir()
    threads = torch.get_num_threads()
    with serving(tmp_path / "files") as url:
        yield tmp_path / "files", url
    torch.set_num_threads(threads)  # commands take one


def shipped(name: str) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / "config" / f"{name}.yaml").read_text())
    return config


def scaled(name: str, folder: Path, url: str, stable: Path) -> dict[str, Any]:
    """A shipped config on tiny files, which are written into ``folder``: few samples, one NFE.

    One textbook solver and one start of a fit, each time another; on CIFAR-10 all the solvers and two starts.
    """
    config = shipped(name)
    config["model"] |= {"batch": 10} | MODELS[config["model"]["type"]](name, folder, url, stable)
    if "path" in config["model"]:
        config["model"] = {key: value for key, value in config["model"].items() if key not in ("id", "revision")}
    config["teacher"] |= {"train": 24, "validation": 8, "shard_size": 20}
    config["nfe"] = [4]
    turn = NAMES.index(name)
    solvers, starts = (every[turn % len(every) :][:1] if turn else every
                       for every in (config["classical"]["solvers"], config["learned"]["starts"][:2]))  # fmt: skip
    config["classical"]["solvers"] = solvers
    config["classical"]["schedules"] = ["logsnr", "gits" if config["teacher"]["schedule"] == "gits" else "dmn"]
    config["learned"] |= {"methods": ["s4s-alt"], "starts": starts, "rounds": 1}
    config["sample"] |= {"n": 40, "shard_size": 15}
    config["score"] |= scoring(config, folder, url)
    return config


def scoring(config: dict[str, Any], folder: Path, url: str) -> dict[str, Any]:
    """An extractor of six features and a reference; images, and all metrics, for one of the benchmarks."""
    register()
    torch.save({"matrix": torch.eye(6)}, folder / "dummy.pth")
    name = "dummy-floats" if config["score"]["protocol"] == "ld3-latent" else "dummy"
    made: dict[str, Any] = {"extractor": {"name": name, "layer": "6", "weights": str(folder / "dummy.pth")}}
    random = np.random.default_rng(0)
    if config["benchmark"] == "cifar10":
        (folder / "real").mkdir(exist_ok=True)
        for i in range(30):
            Image.fromarray(random.integers(256, size=(16, 16, 3), dtype=np.uint8)).save(folder / "real" / f"{i}.png")
        reference = {"kind": "folder", "where": str(folder / "real"), "count": 30}
        return made | {"reference": reference, "metrics": ["fid", "kid", "precision-recall"], "bootstrap": 5}
    features = random.normal(size=(50, 6))
    path = folder / "statistics.npz"
    np.savez(path, mu=features.mean(0), sigma=np.cov(features.T))
    return made | {"reference": {"kind": "npz", "where": f"{url}/{path.name}", "sha256": sha256(path)}}


def random_lpips(cache: Path) -> None:
    """LPIPS of random weights where the published ones would be kept."""
    torch.manual_seed(0)
    cache.mkdir(parents=True, exist_ok=True)
    save_file({key: value.detach() for key, value in VGG16().state_dict().items()}, cache / "lpips-vgg16.safetensors")


def edm(name: str, folder: Path, url: str, _: Path) -> dict[str, Any]:
    path = folder / f"{name}.pkl"
    path.write_bytes(nvidia.dump(nvidia.network(PIXELS, len(name))[1]))
    return {"weights": {"url": f"{url}/{path.name}", "sha256": sha256(path), "licence": "none"}}


def ldm(name: str, folder: Path, url: str, _: Path) -> dict[str, Any]:
    config = compvis.TINY_CLASSES if name == "imagenet256" else compvis.TINY
    path = compvis.save(folder / "model.ckpt", compvis.state_dict(*compvis.draw(config)))
    weights: dict[str, Any] = {"sha256": sha256(path)}
    if name == "lsun_bedroom":
        with zipfile.ZipFile(folder / "model.zip", "w", zipfile.ZIP_DEFLATED) as file:
            file.write(path, path.name)
        path = folder / "model.zip"
        weights = {"member": "model.ckpt", "allow_unverified": True}
    usual = vars(LDMConfig())
    sizes = {key: list(v) if isinstance(v, tuple) else v for key, v in vars(config).items() if v != usual[key]}
    weights |= {"url": f"{url}/{path.name}", "licence": "none"}
    return {"kind": "custom", "sizes": sizes, "weights": weights}


def stable_diffusion(name: str, folder: Path, url: str, stable: Path) -> dict[str, Any]:
    (folder / "prompts.txt").write_text("".join(f"{'abc'[i % 3]} x{i}\n" for i in range(7)))
    return {"path": str(stable), "prompts": str(folder / "prompts.txt"), "n_prompts": 7}


MODELS = {"edm": edm, "ldm": ldm, "stable-diffusion": stable_diffusion}
