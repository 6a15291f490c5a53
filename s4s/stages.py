"""The pipeline's stages: each reads and writes files under ``results/<benchmark>`` and nothing else.

A stage checks that what it reads was made from the same part of the config, so that two configs never mix in a folder.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

import s4s
from s4s import classical, metrics, train
from s4s.config import Cell, cells, digest, made_from, shards
from s4s.distance import Distance, distance, feature
from s4s.errors import Error
from s4s.files import replacing, sha256, write_text
from s4s.fit import fit
from s4s.grid import grid
from s4s.models import weights
from s4s.models.digits import SHAPE, Classifier, DigitsUNet, Perceptual, digits
from s4s.process import EDM, Process
from s4s.solver import Denoise, Solver, load_solver
from s4s.teacher import TeacherSet, generate

Config = Mapping[str, Any]
NETWORKS = {"denoiser": DigitsUNet, "features": Classifier, "perceptual": Perceptual}


class Folder:
    """Where a benchmark keeps what it makes."""

    def __init__(self, config: Config, results: Path) -> None:
        self.root = results / config["benchmark"]

    def model(self, kind: str) -> Path:
        return self.root / "models" / f"{kind}.safetensors"

    @property
    def teacher(self) -> Path:
        return self.root / "teacher" / "pairs.safetensors"

    def solver(self, cell: Cell) -> Path:
        return self.root / "solvers" / f"{cell.name}.json"

    def fit(self, cell: Cell) -> Path:
        return self.root / "fits" / f"{cell.name}.json"

    def samples(self, cell: Cell, first: int, last: int) -> Path:
        return self.root / "samples" / cell.name / f"{first:06d}-{last:06d}.npz"

    def metrics(self, cell: Cell) -> Path:
        return self.root / "metrics" / f"{cell.name}.json"


def train_network(config: Config, results: Path, kind: str) -> Path:
    """Train ``denoiser``, ``features`` or ``perceptual`` and save its weights."""
    model = config["model"]
    if kind == "denoiser":
        net = train.train_denoiser(model["seed"], model["steps"], model["batch"], channels=model["channels"])
    else:
        offset = 1 + list(NETWORKS).index(kind)
        net = train.train_classifier(kind, model["seed"] + offset, model["classifier_steps"])
    path = Folder(config, results).model(kind)
    extra = {} if kind == "denoiser" else {"accuracy": train.accuracy(net)}
    weights.save(net, path, made_from=made_from(config, "train"), **extra)
    return path


def network(config: Config, results: Path, kind: str) -> Any:
    """A trained network of this config."""
    path = Folder(config, results).model(kind)
    net = weights.load(path, NETWORKS[kind])
    with safe_open(path, framework="pt") as file:
        _expect(path, json.loads(file.metadata()["record"])["made_from"], made_from(config, "train"))
    return net


def process_of(config: Config) -> EDM:
    """The noise process of this config."""
    return EDM(sigma_min=config["process"]["sigma_min"], sigma_max=config["process"]["sigma_max"])


def denoiser(config: Config, results: Path) -> Denoise:
    """The frozen network as ``denoise``."""
    process: Process = process_of(config)
    return process.denoiser(network(config, results, "denoiser"), prediction="x0")


def textbook(config: Config, cell: Cell) -> Solver:
    """The textbook solver of a cell: the cell itself, or where its learning starts."""
    intervals = classical.intervals(cell.solver, cell.nfe, **cell.options)
    return s4s.solver(cell.solver, grid(cell.schedule, process_of(config), intervals), **cell.options)


def make_teacher(config: Config, results: Path) -> Path:
    """Run the teacher on its noises; training samples first, then the held-out ones."""
    spec = config["teacher"]
    solver = textbook(config, cells(config)[0])
    indices = range(spec["train"] + spec["validation"])
    y = generate(solver, denoiser(config, results), indices, SHAPE, spec["seed"], progress="teacher")
    path = Folder(config, results).teacher
    record = {"name": solver.name, "schedule": spec["schedule"], "nfe": solver.nfe, "seed": spec["seed"]}
    metadata = {"record": json.dumps(record), "made_from": json.dumps(made_from(config, "teacher"))}
    with replacing(path) as temporary:
        save_file({"y": y}, temporary, metadata)
    return path


def teacher_pairs(config: Config, results: Path) -> TeacherSet:
    """The teacher set of this config."""
    path = Folder(config, results).teacher
    try:
        with safe_open(path, framework="pt") as file:
            metadata, y = file.metadata(), file.get_tensor("y")
    except (OSError, SafetensorError) as error:
        raise Error(f"{path}: cannot read the teacher set ({error}); run `s4s teacher` again") from error
    _expect(path, json.loads(metadata["made_from"]), made_from(config, "teacher"))
    return TeacherSet(y, config["teacher"]["seed"], config["process"]["sigma_max"], 0, json.loads(metadata["record"]))


def distance_of(config: Config, results: Path) -> Distance:
    """The distance that fits minimise."""
    if config["learned"]["distance"] == "feature":
        return feature(network(config, results, "perceptual").taps)
    return distance(config["learned"]["distance"])


def fit_cell(config: Config, results: Path, cell: Cell) -> Path:
    """Write the solver of a cell: textbook numbers, or what its method learns from them."""
    folder = Folder(config, results)
    solver = textbook(config, cell)
    if not cell.learned:
        solver.replace(provenance={**solver.provenance, "schedule": cell.schedule}).save(folder.solver(cell))
        return folder.solver(cell)
    learned = config["learned"]
    result = fit(
        solver,
        denoiser(config, results),
        teacher_pairs(config, results),
        cell.method,
        distance=distance_of(config, results),
        radius=learned["radius"],
        seed=cell.seed or 0,
        rounds=learned["rounds"],
        validation=config["teacher"]["validation"],
        progress=cell.name,
    )
    spent = {"val_loss": result.val_loss, "start_loss": result.start_loss, "evaluations": result.evaluations}
    write_json(folder.fit(cell), spent | {"seconds": result.seconds, "history": result.history})
    provenance = {**result.solver.provenance, "schedule": cell.schedule, "made_from": made_from(config, "fit")}
    result.solver.replace(provenance=provenance).save(folder.solver(cell))
    return folder.solver(cell)


def solver_of(config: Config, results: Path, cell: Cell) -> Solver:
    """The solver of a cell, as ``fit_cell`` wrote it."""
    path = Folder(config, results).solver(cell)
    solver = load_solver(path)
    if cell.learned:
        _expect(path, solver.provenance.get("made_from", {}), made_from(config, "fit"))
    return solver


def sample_cell(config: Config, results: Path, cell: Cell, first: int, last: int) -> Path:
    """Samples ``first`` to ``last - 1`` of a cell, as uint8."""
    spec = config["sample"]
    started = time.perf_counter()
    solver = solver_of(config, results, cell)
    images = generate(solver, denoiser(config, results), range(first, last), SHAPE, spec["seed"], progress=cell.name)
    path = Folder(config, results).samples(cell, first, last)
    facts = {"seconds": time.perf_counter() - started, "solver_sha256": sha256(Folder(config, results).solver(cell))}
    with replacing(path) as temporary:
        np.savez(
            temporary,
            images=metrics.to_uint8(images, spec["uint8"]).numpy(),
            record=json.dumps(facts | {"made_from": made_from(config, "sample")}),
        )
    return path


def read_samples(config: Config, results: Path, cell: Cell) -> tuple[Tensor, float]:
    """All samples of a cell [n, 1, 8, 8] uint8, and the seconds they took."""
    images, seconds = [], 0.0
    solver_of(config, results, cell)
    expected = sha256(Folder(config, results).solver(cell))
    for first, last in shards(config):
        path = Folder(config, results).samples(cell, first, last)
        try:
            with np.load(path) as file:
                images.append(torch.from_numpy(file["images"]))
                facts = json.loads(str(file["record"]))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise Error(f"{path}: cannot read the samples ({error}); run `s4s sample` again") from error
        _expect(path, facts["made_from"], made_from(config, "sample"))
        if facts["solver_sha256"] != expected or len(images[-1]) != last - first:
            raise Error(f"{path}: these samples are not of the present solver file; run `s4s sample` again")
        seconds += facts["seconds"]
    return torch.cat(images), seconds


def evaluate_cell(config: Config, results: Path, cell: Cell) -> Path:
    """Score a cell's samples against the digits and write its metrics with the full protocol."""
    folder = Folder(config, results)
    images, seconds = read_samples(config, results, cell)
    extract = metrics.extractor("digits", folder.model("features"))
    network(config, results, "features")
    reference = metrics.to_uint8(digits()[0], config["sample"]["uint8"])
    fid = metrics.frechet(metrics.Moments.of(extract(images)), metrics.Moments.of(extract(reference)))
    spent = json.loads(folder.fit(cell).read_text()) if cell.learned else {}
    family = load_solver(folder.solver(cell)).provenance.get("family", "")
    head = {"cell": cell.name, "benchmark": config["benchmark"], "method": cell.method, "solver": cell.start,
            "schedule": cell.schedule, "family": family, "order": cell.options.get("order"), "nfe": cell.nfe,
            "seed": cell.seed, "fid": fid, "fid_label": metrics.fid_label(len(images)), "n_samples": len(images),
            "val_loss": spent.get("val_loss"), "fit_seconds": spent.get("seconds"),
            "fit_nfe": spent.get("evaluations"), "sample_seconds": seconds}  # fmt: skip
    reference_hash = digest(reference.flatten().tolist())
    protocol = {**extract.identity, "feature_space": "digits classifier, not Inception",
                "uint8": config["sample"]["uint8"], "reference": "all 1,797 digits of scikit-learn",
                "reference_sha256": reference_hash,
                "classes": "unconditional", "guidance": None, "sample_seed": config["sample"]["seed"],
                "sigma_range": [config["process"]["sigma_max"], config["process"]["sigma_min"]]}  # fmt: skip
    write_json(folder.metrics(cell), head | {"protocol": protocol, "provenance": provenance(config, cell)})
    return folder.metrics(cell)


def provenance(config: Config, cell: Cell) -> dict[str, Any]:
    """What produced a number."""
    import torch_fidelity
    import torchvision

    commit, dirty = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    return {
        "git_commit": commit,
        "git_dirty": None if dirty is None else bool(dirty),
        "config_sha256": digest(config),
        "command": " ".join(["s4s", *sys.argv[1:]]),
        "versions": {
            "s4s": s4s.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "torch_fidelity": torch_fidelity.__version__,
            "numpy": np.__version__,
        },
        "device": "cpu",
        "dtype": "float32",
        "seeds": {
            "model": config["model"]["seed"],
            "teacher": config["teacher"]["seed"],
            "fit": cell.seed,
            "sample": config["sample"]["seed"],
        },
    }


def write_json(path: Path, data: Any) -> None:
    """Write JSON whole or not at all."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def _git(*arguments: str) -> str | None:
    """Output of a git command in the folder of this package; None outside a checkout."""
    try:
        here = Path(__file__).parent
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _expect(path: Path, found: Any, wanted: Any, where: str = "") -> None:
    """Raise, naming the first key that differs, unless a result was made from this config."""
    if found == wanted:
        return
    if isinstance(found, dict) and isinstance(wanted, dict):
        for key in sorted({*found, *wanted}):
            _expect(path, found.get(key), wanted.get(key), f"{where}.{key}" if where else key)
        return
    raise Error(
        f"{path}: made from another config ({where} = {found!r} there, {wanted!r} in this one);"
        " run snakemake to renew it, or choose another benchmark name"
    )
