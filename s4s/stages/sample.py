"""The sample stage: images of a cell, in shards."""

from __future__ import annotations

import json
import time
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from s4s import metrics
from s4s.config import Cell, made_from, shards
from s4s.errors import Error
from s4s.files import replacing, sha256
from s4s.models.digits import SHAPE
from s4s.stages.bench import denoiser
from s4s.stages.files import Config, Folder, expect
from s4s.stages.fit import solver_of
from s4s.teacher import generate


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
        expect(path, facts["made_from"], made_from(config, "sample"))
        if facts["solver_sha256"] != expected or len(images[-1]) != last - first:
            raise Error(f"{path}: these samples are not of the present solver file; run `s4s sample` again")
        seconds += facts["seconds"]
    return torch.cat(images), seconds
