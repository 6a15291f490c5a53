"""The paths stage: how far the states of every few-step solver are from the teacher's, node by node."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from s4s.learn.teacher import started
from s4s.noise import noise
from s4s.passage import Passage, nodes
from s4s.solver import Denoise, Solver
from s4s.stages.bench import Bench
from s4s.stages.cells import Cell, cells, teacher_of
from s4s.stages.costs import NOISES
from s4s.stages.files import write_json
from s4s.stages.fit import solver_of


def write_paths(bench: Bench) -> Path:
    """Write ``paths.json``: of every solver the levels of its nodes, and its distance to the teacher at each.

    The distance is the root mean square over noises and dimensions, in data units, of the state less that of the
    teacher, from the same noise, at the same level. The noises are the first of those that samples are made of.
    """
    path, every = bench.folder.root / "paths.json", cells(bench.config)
    reads = bench.reads(*map(bench.folder.solver, every))
    read = {cell: made for cell in every if isinstance(made := solver_of(bench, cell), Solver)}
    solvers = {cell: solver for cell, solver in read.items() if cell.method != "teacher"}
    squares = {cell.name: torch.zeros(solver.nfe + 1, dtype=torch.float64) for cell, solver in solvers.items()}
    shape, seed, count = bench.model.shape, bench.config["sample"]["seed"], 0
    for first in range(0, NOISES, bench.batch):  # whole batches, as samples are made in
        rows = range(first, first + bench.batch)
        used, normal, denoise = min(len(rows), NOISES - first), noise(seed, rows, shape), bench.denoiser(rows)
        passed: dict[Cell, Passage] = {}
        for cell, solver in solvers.items():
            teacher = teacher_of(bench.config, cell.nfe)
            if teacher not in passed:
                passed[teacher] = Passage.of(read[teacher], denoise, _x_T(bench, read[teacher], normal))
            squares[cell.name] += _squares(solver, denoise, _x_T(bench, solver, normal), passed[teacher], used)
        count += used
    distances = {name: (total / count).sqrt().tolist() for name, total in squares.items()}
    listed = {cell.name: {"sigma": solver.sigma.tolist(), "distance": [float(f"{d:.6g}") for d in distances[cell.name]]}
            for cell, solver in solvers.items()}  # fmt: skip
    write_json(path, {"noises": count, "cells": listed})
    bench.chain.note(path, "paths", reads)
    return path


def _x_T(bench: Bench, solver: Solver, normal: Tensor) -> Tensor:
    return started(solver, normal, torch.float32, bench.device)


def _squares(solver: Solver, denoise: Denoise, x_T: Tensor, teacher: Passage, used: int) -> Tensor:
    """[N + 1] mean square of the difference at each node, summed over the first ``used`` samples."""
    states, _ = nodes(solver, denoise, x_T)
    gaps = [(x - teacher.at(sigma))[:used] for x, sigma in zip(states, solver.sigma.tolist(), strict=True)]
    return torch.stack([gap.double().square().flatten(1).mean(1).sum() for gap in gaps]).cpu()
