"""The sample stage: images of a cell, in shards."""

from __future__ import annotations

import json
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4s.errors import Error
from s4s.files import replacing
from s4s.learn.teacher import generate
from s4s.score.features import to_uint8
from s4s.solver import Solver
from s4s.stages import own
from s4s.stages.bench import Bench
from s4s.stages.cells import Cell, uint8_rule
from s4s.stages.fit import solver_of
from s4s.stages.own import Sampler

SHOWN = 16  # images of a shard that are there to look at, where not all of them are kept
UNREADABLE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile)  # what damaged npz files raise


@dataclass(frozen=True)
class Samples:
    """A shard of samples.

    Args:
        images: [n, ...] uint8; only the first few where the protocol wants floats.
        states: [n, ...] float32, last states that scoring decodes; None where it takes the images.
        facts: JSON-able: what they are of, and the seconds they took.
    """

    images: Tensor
    states: Tensor | None
    facts: dict[str, Any]

    @property
    def scored(self) -> Tensor:
        """What features are taken from."""
        return self.images if self.states is None else self.states


def draw(bench: Bench, solver: Solver | Sampler, first: int, last: int, progress: str) -> tuple[Tensor, Tensor | None]:
    """Images and states, as in ``Samples``, that a solver makes of noises ``first`` to ``last - 1``."""
    rule = uint8_rule(bench.config)
    where: dict[str, Any] = {"batch": bench.batch, "device": bench.device, "progress": progress}
    what = range(first, last), bench.model.shape, bench.config["sample"]["seed"]
    if isinstance(solver, Sampler):
        x = own.generate(solver, bench.denoiser, bench.process, *what, **where)
    else:
        x = generate(solver, bench.denoiser, *what, **where)
    if rule == "none":
        return _images(bench, x[:SHOWN], "edm"), x.float().cpu()
    return _images(bench, x, rule), None


def make_samples(bench: Bench, cell: Cell, first: int, last: int) -> Samples:
    """Samples ``first`` to ``last - 1`` of a cell, in memory."""
    started = time.perf_counter()
    images, states = draw(bench, solver_of(bench, cell), first, last, cell.name)
    facts = {
        "seconds": time.perf_counter() - started,
        "model": dict(bench.model.facts),
        "device": bench.device_name,
        "sigma_range": [bench.process.sigma_max, bench.process.sigma_min],
    }
    return Samples(images, states, facts)


def _images(bench: Bench, x: Tensor, rule: str) -> Tensor:
    """Last states -> 8-bit images, a network call's worth at a time."""
    with torch.no_grad():
        return torch.cat([to_uint8(bench.model.decode(part), rule).cpu() for part in x.split(bench.batch)])


def sample_cell(bench: Bench, cell: Cell, first: int, last: int) -> Path:
    """Keep samples ``first`` to ``last - 1`` of a cell: 8-bit images, or last states if the protocol wants floats."""
    reads = bench.reads(bench.folder.solver(cell))
    samples = make_samples(bench, cell, first, last)
    arrays: dict[str, Any] = {"images": samples.images.numpy()}
    if samples.states is not None:
        arrays["states"] = samples.states.numpy()
    with replacing(path := bench.folder.samples(cell, first, last)) as temporary:
        np.savez(temporary, **arrays, record=json.dumps(samples.facts))
    bench.chain.note(path, "sample", reads)
    return path


def read_samples(bench: Bench, cell: Cell, first: int, last: int) -> Samples:
    """The samples that ``sample_cell`` kept.

    Raises:
        Error: the file is missing, damaged, or of another config, network or solver.
    """
    path, floats = bench.folder.samples(cell, first, last), uint8_rule(bench.config) == "none"
    bench.chain.read(path)
    try:
        with np.load(path) as file:
            images = torch.from_numpy(file["images"])
            states = torch.from_numpy(file["states"]) if floats else None
            made = Samples(images, states, json.loads(str(file["record"])))
    except UNREADABLE as error:
        raise Error(f"{path}: cannot read the samples ({error}); run `s4s sample` again") from error
    if len(made.scored) != last - first:
        raise Error(f"{path}: holds {len(made.scored)} samples, not {last - first}; run `s4s sample` again")
    return made
