"""What a config stands for: its noise process, its network as ``denoise``, its textbook solvers."""

from __future__ import annotations

from pathlib import Path

import s4s
from s4s import classical
from s4s.config import Cell
from s4s.grid import grid
from s4s.process import EDM, Process
from s4s.solver import Denoise, Solver
from s4s.stages.files import Config
from s4s.stages.networks import network


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
