"""The digits in a second, in this process: networks of a step or two, one textbook cell and one learned one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from s4s.stages import config
from s4s.stages.bench import Bench
from s4s.stages.cells import Cell, cells, shards, teacher_files, teachers
from s4s.stages.evaluate import evaluate_cell
from s4s.stages.fit import fit_cell
from s4s.stages.networks import train_network
from s4s.stages.paths import write_paths
from s4s.stages.teacher import make_teacher

CONFIG = {
    "benchmark": "small",
    "model": {"type": "digits", "steps": 1, "classifier_steps": 2, "channels": 8},
    "process": {},
    "teacher": {"solver": {"name": "ddim"}, "schedule": "logsnr", "nfe": 4, "train": 8, "validation": 4},
    "nfe": [2],
    "classical": {"solvers": [{"name": "ddim"}], "schedules": ["edm"]},
    "learned": {"methods": ["s4s"], "starts": [{"solver": {"name": "ddim"}, "schedule": "edm"}], "rounds": 1},
    "sample": {"n": 100, "keep_images": False},
}


def bench(results: Path = Path("results"), **changes: Any) -> Bench:
    """The benchmark with keys of its sections changed: ``bench(model={"steps": 2})``."""
    made = json.loads(json.dumps(CONFIG))
    for section, values in changes.items():
        made[section] = {**made.get(section, {}), **values} if isinstance(values, dict) else values
    return Bench(config.check(made), results)


def train(made: Bench) -> None:
    for name in ("denoiser", "features", "perceptual"):
        train_network(made, name)


def teach(made: Bench) -> None:
    for cell in teachers(made.config):
        for first, last in teacher_files(made.config, cell).values():
            make_teacher(made, cell, first, last)


def run(made: Bench) -> None:
    """Every stage of every cell, as hand-typed commands would."""
    train(made)
    teach(made)
    for cell in cells(made.config):
        fit_cell(made, cell)
        evaluate_cell(made, cell)
    write_paths(made)


def textbook(made: Bench) -> Cell:
    return next(cell for cell in cells(made.config) if cell.method == "classical")


def learned(made: Bench) -> Cell:
    return next(cell for cell in cells(made.config) if cell.learned)


def shard(made: Bench, cell: Cell) -> Path:
    """The first file of features of a cell."""
    return made.folder.features(cell, *shards(made.config)[0])
