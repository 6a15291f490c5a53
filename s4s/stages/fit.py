"""The fit stage: the solver file of a cell."""

from __future__ import annotations

from pathlib import Path

from s4s.config import Cell, made_from
from s4s.distance import Distance, distance, feature
from s4s.fit import fit
from s4s.solver import Solver, load_solver
from s4s.stages.bench import denoiser, textbook
from s4s.stages.files import Config, Folder, expect, write_json
from s4s.stages.networks import network
from s4s.stages.teacher import teacher_pairs


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
        expect(path, solver.provenance.get("made_from", {}), made_from(config, "fit"))
    return solver
