"""The sample stage: images of a cell, in shards."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4s.cells import Cell, made_from, shards, uint8_rule
from s4s.errors import Error
from s4s.features import to_uint8
from s4s.files import replacing, sha256
from s4s.stages.bench import Bench
from s4s.stages.files import expect
from s4s.stages.fit import solver_of
from s4s.teacher import generate

SHOWN = 16  # images of a shard that are there to look at, where the scored ones are not 8-bit


def sample_cell(bench: Bench, cell: Cell, first: int, last: int) -> Path:
    """Samples ``first`` to ``last - 1`` of a cell: 8-bit images, or their last states if the protocol wants floats."""
    seed, rule = bench.config["sample"]["seed"], uint8_rule(bench.config)
    started = time.perf_counter()
    solver = solver_of(bench, cell)
    x = generate(solver, bench.denoiser, range(first, last), bench.model.shape, seed,
                 batch=bench.batch, device=bench.device, progress=cell.name)  # fmt: skip
    if rule == "none":
        arrays = {"states": x.float().cpu().numpy(), "images": _images(bench, x[:SHOWN], "edm")}
    else:
        arrays = {"images": _images(bench, x, rule)}
    path = bench.folder.samples(cell, first, last)
    process = bench.process
    facts = {
        "seconds": time.perf_counter() - started,
        "solver_sha256": sha256(bench.folder.solver(cell)),
        "made_from": made_from(bench.config, "sample"),
        "model": bench.model.facts_of(range(bench.config["sample"]["n"])),
        "device": bench.device_name,
        "sigma_range": [process.sigma_max, process.sigma_min],
    }
    with replacing(path) as temporary:
        np.savez(temporary, **arrays, record=json.dumps(facts))
    return path


def _images(bench: Bench, x: Tensor, rule: str) -> Any:
    """Last states -> 8-bit images, a network call's worth at a time."""
    with torch.no_grad():
        parts = [to_uint8(bench.model.decode(part), rule).cpu() for part in x.split(bench.batch)]
    return torch.cat(parts).numpy()


def read_facts(bench: Bench, cell: Cell) -> list[dict[str, Any]]:
    """What lies beside the samples of a cell, a record for each file.

    Raises:
        Error: a file is missing, damaged, or of another config or solver.
    """
    solver_of(bench, cell)
    expected = sha256(bench.folder.solver(cell))
    found: list[dict[str, Any]] = []
    for first, last in shards(bench.config):
        path = bench.folder.samples(cell, first, last)
        facts = json.loads(str(_read(path, "record")))
        expect(path, facts["made_from"], made_from(bench.config, "sample"))
        if facts["solver_sha256"] != expected:
            raise Error(f"{path}: these samples are not of the present solver file; run `s4s sample` again")
        if found and facts["model"] != found[0]["model"]:
            raise Error(f"{path}: these samples are of another network than the first ones; run `s4s sample` again")
        found.append(facts)
    return found


def read_samples(bench: Bench, cell: Cell) -> Iterator[Tensor]:
    """The samples of a cell, a file at a time: 8-bit images, or last states in float32 that scoring decodes."""
    key = "states" if uint8_rule(bench.config) == "none" else "images"
    for first, last in shards(bench.config):
        path = bench.folder.samples(cell, first, last)
        samples = torch.from_numpy(_read(path, key))
        if len(samples) != last - first:
            raise Error(f"{path}: holds {len(samples)} samples, not {last - first}; run `s4s sample` again")
        yield samples


def _read(path: Path, key: str) -> Any:
    try:
        with np.load(path) as file:
            return file[key]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise Error(f"{path}: cannot read the samples ({error}); run `s4s sample` again") from error
