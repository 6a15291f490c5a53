"""The fit stage: the solver file of a cell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from s4s.learn import distances, lpips
from s4s.learn.distance import Distance, decoded, feature, total
from s4s.learn.fit import fit
from s4s.learn.frozen import Frozen
from s4s.learn.jacobian import PERTURBATION
from s4s.learn.relaxed import relaxed_distances
from s4s.learn.teacher import TeacherSet
from s4s.models.model import identity
from s4s.solver import Denoise, Solver, load_solver
from s4s.stages.bench import Bench
from s4s.stages.cells import Cell, made_from, radius_of, teacher_of
from s4s.stages.chain import outside
from s4s.stages.files import write_json
from s4s.stages.networks import network
from s4s.stages.teacher import teacher_pairs, teacher_paths

PERTURBATIONS = {
    "tf32": 3e-2,
    "float16": 3e-2,
    "bfloat16": 1e-1,
}  # about the square root of the rounding error; else the default


def distance_of(bench: Bench) -> Distance:
    """The distance that fits minimise."""
    spec = bench.config["learned"]["distance"]
    made = _named(bench, spec) if isinstance(spec, str) else total(*((w, _named(bench, n)) for n, w in spec.items()))
    images = bench.config["learned"]["space"] == "images" and bench.model.decode is not identity
    return decoded(made, bench.model.decode) if images else made


def _named(bench: Bench, name: str) -> Distance:
    if name == "feature":
        return feature(network(bench, "perceptual").to(bench.device).taps)
    return distances.distance(name)


def fit_cell(bench: Bench, cell: Cell) -> Path:
    """Write the solver of a cell: textbook numbers, or what its method learns from them; a killed fit goes on."""
    return _learned(bench, cell) if cell.learned else _textbook(bench, cell)


def _textbook(bench: Bench, cell: Cell) -> Path:
    path = bench.folder.solver(cell)
    reads = {} if bench.trained else bench.reads()  # the model's process says the levels
    reads |= bench.chain.read(*bench.searched(cell))
    solver = bench.textbook(cell)
    solver.replace(provenance={**solver.provenance, "schedule": cell.schedule}).save(path)
    bench.chain.note(path, "textbook", reads)
    return path


def _learned(bench: Bench, cell: Cell) -> Path:
    folder, chain, learned = bench.folder, bench.chain, bench.config["learned"]
    distance = distance_of(bench)
    pairs, (compared, elsewhere) = teacher_of(bench.config, cell.nfe), _compared(bench)
    reads = bench.reads(*teacher_paths(bench, pairs), *compared, *bench.searched(cell))
    chain.go_on(folder.unfinished(cell), "fit", reads, elsewhere)
    model, teacher = bench.model, teacher_pairs(bench, pairs)
    condition = model.condition(range(len(teacher)))
    data = replace(teacher, condition=condition)
    denoise: Denoise | Callable[[Tensor], Denoise] = model.denoiser(None) if condition is None else model.denoiser
    result = fit(
        bench.textbook(cell),
        denoise,
        data,
        cell.method,
        distance=distance,
        radius=radius_of(bench.config, cell),
        moments=learned["moments"],
        family=cell.family,
        order=cell.order,
        convert=learned.get("convert"),
        seed=cell.seed or 0,
        rounds=learned["rounds"],
        validation=bench.config["teacher"]["validation"],
        microbatch=learned.get("microbatch"),
        perturbation=PERTURBATIONS.get(str(model.facts["dtype"]), PERTURBATION),
        progress=cell.name,
        resume=folder.unfinished(cell),
    )
    spent = {"val_loss": result.val_loss, "start_loss": result.start_loss, "evaluations": result.evaluations}
    if cell.radius is not None:
        spent["relaxed_loss"] = _relaxed_loss(
            bench, cell, result.solver, Frozen(denoise, learned.get("microbatch")), data
        )
    write_json(folder.fit(cell), spent | {"seconds": result.seconds, "history": result.history})
    provenance = {**result.solver.provenance, "schedule": cell.schedule, "made_from": made_from(bench.config, "fit")}
    result.solver.replace(provenance=provenance).save(folder.solver(cell))
    for path in (folder.fit(cell), folder.solver(cell)):
        chain.note(path, "fit", reads, elsewhere)
    chain.forget(folder.unfinished(cell))
    return folder.solver(cell)


def _compared(bench: Bench) -> tuple[list[Path], dict[str, str]]:
    """What the distance reads: networks of the pipeline, and files that are no results."""
    spec = bench.config["learned"]["distance"]
    return [bench.folder.model("perceptual")] * ("feature" in spec), outside(*[lpips.place()] * ("lpips" in spec))


def _relaxed_loss(bench: Bench, cell: Cell, solver: Solver, network: Frozen, data: TeacherSet) -> float:
    """Mean distance on the held-out samples when each noise may move within the cell's ball."""
    held_out = data.part(len(data) - bench.config["teacher"]["validation"], len(data))
    batch, reach = (held_out.x_T, held_out.y, held_out.condition), radius_of(bench.config, cell) * data.sigma_max
    return relaxed_distances(solver, network, batch, distance_of(bench), reach).mean().item()


def solver_of(bench: Bench, cell: Cell) -> Solver:
    """The solver of a cell, as ``fit_cell`` wrote it."""
    bench.chain.read(bench.folder.solver(cell))
    return load_solver(bench.folder.solver(cell))
