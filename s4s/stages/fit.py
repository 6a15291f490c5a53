"""The fit stage: the solver file of a cell."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from s4s.curve import Curve, load_curve
from s4s.errors import Error
from s4s.learn import distances, lpips
from s4s.learn.any_nfe import CurveResult, fit_curve
from s4s.learn.distance import Distance, decoded, feature, total
from s4s.learn.fit import FitResult, fit
from s4s.learn.frozen import Frozen
from s4s.learn.jacobian import PERTURBATION
from s4s.learn.memory import peak_bytes
from s4s.learn.methods import METHODS, TOGETHER
from s4s.learn.relaxed import relaxed_distances
from s4s.learn.skip import at_most
from s4s.learn.teacher import TeacherSet
from s4s.models.model import identity
from s4s.solver import Denoise, Solver
from s4s.stages.bench import Bench
from s4s.stages.cells import Cell, curves, learned_as, made_from, radius_of, teacher_of
from s4s.stages.chain import outside
from s4s.stages.files import write_json
from s4s.stages.networks import network
from s4s.stages.own import Counted, CountedUnder, Sampler, load_method, load_solver_or_sampler, made_solver, pointer
from s4s.stages.teacher import teacher_pairs, teacher_paths

PERTURBATIONS = {"tf32": 3e-2, "float16": 3e-2, "bfloat16": 1e-1}  # about the root of rounding; else the default


def distance_of(bench: Bench, cell: Cell | None = None) -> Distance:
    """The distance that fits, or that of a cell, minimise."""
    spec = (bench.config["learned"] if cell is None else learned_as(bench.config, cell))["distance"]
    made = _named(bench, spec) if isinstance(spec, str) else total(*((w, _named(bench, n)) for n, w in spec.items()))
    images = bench.config["learned"]["space"] == "images" and bench.model.decode is not identity
    return decoded(made, bench.model.decode) if images else made


def _named(bench: Bench, name: str) -> Distance:
    if name == "feature":
        return feature(network(bench, "perceptual").to(bench.device).taps)
    return distances.distance(name)


def fit_cell(bench: Bench, cell: Cell) -> Path:
    """Write the solver of a cell: textbook numbers, or what its method learns from them; a killed fit goes on."""
    if cell.together:
        return _of_curve(bench, cell)
    if cell.learned:
        return _learned(bench, cell)
    return _textbook(bench, cell) if cell.file is None else _own(bench, cell, cell.file)


def _textbook(bench: Bench, cell: Cell) -> Path:
    path = bench.folder.solver(cell)
    reads = {} if bench.trained else bench.reads()  # the model's process says the levels
    reads |= bench.chain.read(*bench.searched(cell))
    solver = bench.textbook(cell)
    solver.replace(provenance={**solver.provenance, "schedule": cell.schedule}).save(path)
    bench.chain.note(path, "textbook", reads)
    return path


def _own(bench: Bench, cell: Cell, file: Path) -> Path:
    """The solver that a file of one's own makes, or a pointer to its sampler."""
    path, method = bench.folder.solver(cell), load_method(file)
    if method.kind == "fit":
        raise Error(f"{file}: holds fit, a method that learns from a start: name it in learned.methods")
    reads = {} if bench.trained else bench.reads()
    if method.kind == "sample":
        write_json(path, pointer(method, cell.nfe))
    else:
        made = made_solver(method, cell.nfe, {"process": bench.process, "nfe": cell.nfe})
        made.replace(provenance={**made.provenance, "method": cell.method}).save(path)
    bench.chain.note(path, "textbook", reads, outside(file))
    return path


def _fitted(bench: Bench, cell: Cell, denoise: Denoise | Callable[[Tensor], Denoise], data: TeacherSet) -> FitResult:
    """What the ``fit`` of a file of one's own makes of the training part, and its distance on the part held out."""
    assert cell.file is not None
    method, held_out = load_method(cell.file), bench.config["teacher"]["validation"]
    if method.kind != "fit":
        raise Error(f"{cell.file}: holds {method.kind} and no fit: name it in methods, not in learned.methods")
    train, started = data.part(0, len(data) - held_out), time.perf_counter()
    counted = (Counted if data.condition is None else CountedUnder)(denoise)  # type: ignore[arg-type]
    start = bench.textbook(cell)
    given = {"start": start, "denoise": counted, "teacher": train, "seed": cell.seed}
    made = made_solver(method, cell.nfe, given)
    seconds, network = time.perf_counter() - started, Frozen(denoise, bench.config["learned"].get("microbatch"))
    loss, start_loss = (_relaxed_loss(bench, cell, 0.0, solver, network, data) for solver in (made, start))
    return FitResult(made, loss, start_loss, counted.rows, seconds)


def _learned(bench: Bench, cell: Cell) -> Path:
    folder, chain, learned = bench.folder, bench.chain, learned_as(bench.config, cell)
    reads, elsewhere = _reads(bench, cell)
    chain.go_on(folder.unfinished(cell), "fit", reads, elsewhere)
    denoise, data = _problem(bench, cell)
    result = _way(cell)(bench, cell, denoise, data)
    spent = {"val_loss": result.val_loss, "start_loss": result.start_loss, "evaluations": result.evaluations}
    if cell.radius is not None:
        network = Frozen(denoise, learned.get("microbatch"))
        spent["relaxed_loss"] = _relaxed_loss(bench, cell, radius_of(bench.config, cell), result.solver, network, data)
    course = {"history": result.history, "raced": result.raced, "notes": result.notes}
    write_json(folder.fit(cell), spent | {"seconds": result.seconds, "peak_bytes": peak_bytes(bench.device)} | course)
    provenance = {**result.solver.provenance, "schedule": cell.schedule, "made_from": made_from(bench.config, "fit")}
    result.solver.replace(provenance=provenance).save(folder.solver(cell))
    for path in (folder.fit(cell), folder.solver(cell)):
        chain.note(path, "fit", reads, elsewhere)
    chain.forget(folder.unfinished(cell))
    return folder.solver(cell)


def _way(cell: Cell) -> Callable[..., FitResult]:
    """How a cell is learned: by a file of one's own, from a curve, or by a built-in method."""
    if cell.polished:
        return _polished
    return _fit if cell.file is None else _fitted


def _polished(bench: Bench, cell: Cell, denoise: Denoise | Callable[[Tensor], Denoise], data: TeacherSet) -> FitResult:
    """What its curve becomes when it is fitted on for the cell's number of evaluations alone."""
    curve = load_curve(bench.folder.curve(cell))
    start_loss = curve.provenance["losses"][str(cell.nfe)]["val_loss"]
    found = fit_curve(curve, [cell.nfe], denoise, data, progress=cell.name, **_settings(bench, cell))
    solver, loss = found.curve.at(cell.nfe), found.losses[cell.nfe]["val_loss"]
    record = {**solver.provenance, "curve": cell.curve, "val_loss": loss}
    made = solver.replace(provenance=record)
    return FitResult(made, loss, start_loss, found.evaluations, found.seconds, [*found.history], notes=[*found.notes])


def polish_elsewhere(bench: Bench, curve: Curve, nfe: int) -> tuple[CurveResult, dict[str, str], dict[str, str]]:
    """What a curve of another model becomes on a config's model, and hashes of what was read; see ``_reads``."""
    cell = Cell(TOGETHER, curve.solver, {}, "", nfe, fitted=(nfe,))
    reads, elsewhere = _reads(bench, cell)
    denoise, data = _problem(bench, cell)
    settings = _settings(bench, cell) | {"resume": None}
    return fit_curve(curve, [nfe], denoise, data, progress=f"{curve.name} nfe{nfe}", **settings), reads, elsewhere


def _fit(bench: Bench, cell: Cell, denoise: Denoise | Callable[[Tensor], Denoise], data: TeacherSet) -> FitResult:
    """What a built-in method learns."""
    learned, start = learned_as(bench.config, cell), bench.textbook(cell)
    return fit(
        start if cell.settings.get("race", True) else [start],
        denoise,
        data,
        cell.method,
        radius=radius_of(bench.config, cell),
        moments=learned["moments"],
        family=cell.family,
        order=cell.order,
        convert=learned.get("convert"),
        decoupled=cell.settings.get("decoupled", True),
        rounds=learned["rounds"],
        calls=_budget(bench, cell),
        progress=cell.name,
        **_settings(bench, cell),
    )


def _settings(bench: Bench, cell: Cell) -> dict[str, Any]:
    """What a config says to fits of one number of evaluations and of all."""
    return {
        "distance": distance_of(bench, cell),
        "seed": cell.seed or 0,
        "validation": bench.config["teacher"]["validation"],
        "microbatch": bench.config["learned"].get("microbatch"),
        "perturbation": PERTURBATIONS.get(str(bench.model.facts["dtype"]), PERTURBATION),
        "resume": bench.folder.unfinished(cell),
    }


def _reads(bench: Bench, cell: Cell) -> tuple[dict[str, str], dict[str, str]]:
    """Hashes of what a fit reads: results, and files elsewhere."""
    compared, elsewhere = _compared(bench, learned_as(bench.config, cell)["distance"])
    pairs = teacher_paths(bench, teacher_of(bench.config, cell.nfe, cell.settings.get("teacher_nfe")))
    own = {} if cell.file is None else outside(cell.file)
    begun = [bench.folder.curve(cell)] * cell.polished
    return bench.reads(*pairs, *compared, *begun, *bench.searched(cell)), elsewhere | own


def _problem(bench: Bench, cell: Cell) -> tuple[Denoise | Callable[[Tensor], Denoise], TeacherSet]:
    """The network and the teacher's samples of a fit, under their conditions where there are any."""
    pairs = teacher_of(bench.config, cell.nfe, cell.settings.get("teacher_nfe"))
    model, teacher = bench.model, teacher_pairs(bench, pairs)
    condition = model.condition(range(len(teacher)))
    data = replace(teacher, condition=condition)
    if "train" in cell.settings:  # those next to the samples held out, which stay the same
        data = data.part(len(data) - bench.config["teacher"]["validation"] - cell.settings["train"], len(data))
    return model.denoiser(None) if condition is None else model.denoiser, data


def _of_curve(bench: Bench, cell: Cell) -> Path:
    """One solver of a curve, which the first of its cells fits."""
    folder, chain = bench.folder, bench.chain
    if not chain.follows(folder.curve(cell)):
        _fit_curve(bench, curves(bench.config)[cell.curve])
    reads, curve = chain.read(folder.curve(cell)), load_curve(folder.curve(cell))
    record: dict[str, Any] = dict(curve.provenance)
    loss = record.pop("losses")[str(cell.nfe)]
    spent = {"val_loss": loss["val_loss"], "evaluations": record["evaluations"], "seconds": record["seconds"]}
    write_json(folder.fit(cell), spent | {"history": [], "notes": record.get("notes", [])})
    solver = curve.at(cell.nfe)
    solver.replace(provenance=record | {"val_loss": loss["val_loss"], "curve": cell.curve}).save(folder.solver(cell))
    for path in (folder.fit(cell), folder.solver(cell)):
        chain.note(path, "fit", reads)
    return folder.solver(cell)


def _fit_curve(bench: Bench, members: list[Cell]) -> None:
    """Write the curve of some cells; a killed fit goes on."""
    folder, chain, cell = bench.folder, bench.chain, members[0]
    reads, elsewhere = _reads(bench, cell)
    chain.go_on(folder.unfinished(cell), "curve", reads, elsewhere)
    denoise, data = _problem(bench, cell)
    unseen = [each.nfe for each in members if each.unseen]
    start = lambda nfe: bench.textbook(replace(cell, nfe=nfe))
    settings = _settings(bench, cell)
    result = fit_curve(start, cell.fitted, denoise, data, unseen=unseen, progress=cell.curve, **settings)
    more = {"schedule": cell.schedule, "seconds": result.seconds, "reported": result.reported}
    losses = {str(nfe): loss for nfe, loss in result.losses.items()}
    provenance = {**result.curve.provenance, **more, "losses": losses, "made_from": made_from(bench.config, "curve")}
    result.curve.replace(provenance=provenance).save(folder.curve(cell))
    chain.note(folder.curve(cell), "curve", reads, elsewhere)
    chain.forget(folder.unfinished(cell))


def _budget(bench: Bench, cell: Cell) -> int | None:
    """Network calls that a method which leaves some out may make; None for others, and for its own default."""
    share = bench.config["learned"].get("calls")
    return at_most(share, cell.nfe) if share and cell.method in METHODS and METHODS[cell.method].skips else None


def _compared(bench: Bench, spec: Any) -> tuple[list[Path], dict[str, str]]:
    """What the distance reads: networks of the pipeline, and files that are no results."""
    return [bench.folder.model("perceptual")] * ("feature" in spec), outside(*[lpips.place()] * ("lpips" in spec))


def _relaxed_loss(bench: Bench, cell: Cell, radius: float, solver: Solver, network: Frozen, data: TeacherSet) -> float:
    """Mean distance on the held-out samples when each noise may move within a ball of this radius."""
    held_out = data.part(len(data) - bench.config["teacher"]["validation"], len(data))
    reach = radius * data.sigma_max
    return relaxed_distances(solver, network, held_out, distance_of(bench, cell), reach).mean().item()


def solver_of(bench: Bench, cell: Cell) -> Solver | Sampler:
    """The solver of a cell, as ``fit_cell`` wrote it; of a function of one's own, that."""
    bench.chain.read(bench.folder.solver(cell))
    return load_solver_or_sampler(bench.folder.solver(cell))
