"""The sample stage: images of cells, in shards."""

from __future__ import annotations

import json
import time
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from s4s.errors import Error
from s4s.files import replacing
from s4s.learn.teacher import generate_each
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
        facts: JSON-able: what they are of, and their share of the seconds that those made together took.
    """

    images: Tensor
    states: Tensor | None
    facts: dict[str, Any]

    @property
    def scored(self) -> Tensor:
        """What features are taken from."""
        return self.images if self.states is None else self.states


def draw(
    bench: Bench, solvers: Sequence[Solver | Sampler], first: int, last: int, progress: str
) -> list[tuple[Tensor, Tensor | None]]:
    """Images and states, as in ``Samples``, that each solver makes of noises ``first`` to ``last - 1``."""
    where: dict[str, Any] = {"batch": bench.batch, "device": bench.device, "progress": progress}
    what = range(first, last), bench.model.shape, bench.config["sample"]["seed"]
    ours = [solver for solver in solvers if isinstance(solver, Solver)]
    made = iter(_joined(bench, generate_each(ours, bench.denoiser, *what, **where)) if ours else ())

    def of_its_own(sampler: Sampler) -> tuple[Tensor, Tensor | None]:
        x = own.generate(sampler, bench.denoiser, bench.process, *what, **where)
        return _joined(bench, ([part] for part in x.split(bench.batch)))[0]

    return [next(made) if isinstance(solver, Solver) else of_its_own(solver) for solver in solvers]


def _joined(bench: Bench, batches: Iterable[list[Tensor]]) -> list[tuple[Tensor, Tensor | None]]:
    """Images and states of each solver, from its batches."""
    rule = uint8_rule(bench.config)
    if rule != "none":
        images = ([_images(bench, x, rule) for x in each] for each in batches)
        return [(torch.cat(parts), None) for parts in zip(*images, strict=True)]
    floats = ([x.float().cpu() for x in each] for each in batches)
    states = [torch.cat(parts) for parts in zip(*floats, strict=True)]
    return [(torch.cat([_images(bench, part, "edm") for part in x[:SHOWN].split(bench.batch)]), x) for x in states]


def _images(bench: Bench, x: Tensor, rule: str) -> Tensor:
    """Last states -> 8-bit images."""
    with torch.no_grad():
        return to_uint8(bench.model.decode(x.to(bench.device)), rule).cpu()


def make_samples(bench: Bench, cells: Sequence[Cell], first: int, last: int) -> list[Samples]:
    """Samples ``first`` to ``last - 1`` of some cells, in memory."""
    started = time.perf_counter()
    name = cells[0].name if len(cells) == 1 else f"{cells[0].name} and {len(cells) - 1} more"
    drawn = draw(bench, [solver_of(bench, cell) for cell in cells], first, last, name)
    seconds = (time.perf_counter() - started) / sum(cell.nfe for cell in cells)
    facts = {"model": dict(bench.model.facts), "device": bench.device_name,
             "sigma_range": [bench.process.sigma_max, bench.process.sigma_min]}  # fmt: skip
    return [Samples(*made, {"seconds": seconds * cell.nfe} | facts) for cell, made in zip(cells, drawn, strict=True)]


def sample_cell(bench: Bench, cell: Cell, first: int, last: int) -> Path:
    """Keep samples ``first`` to ``last - 1`` of a cell: 8-bit images, or last states if the protocol wants floats."""
    return sample_cells(bench, [cell], first, last)[0]


def sample_cells(bench: Bench, cells: Sequence[Cell], first: int, last: int) -> list[Path]:
    """``sample_cell`` of several cells, which share evaluations where their solvers begin alike."""
    reads, paths = [bench.reads(bench.folder.solver(cell)) for cell in cells], []
    for cell, samples, read in zip(cells, make_samples(bench, cells, first, last), reads, strict=True):
        arrays: dict[str, Any] = {"images": samples.images.numpy()}
        if samples.states is not None:
            arrays["states"] = samples.states.numpy()
        with replacing(path := bench.folder.samples(cell, first, last)) as temporary:
            np.savez(temporary, **arrays, record=json.dumps(samples.facts))
        bench.chain.note(path, "sample", read)
        paths.append(path)
    return paths


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
