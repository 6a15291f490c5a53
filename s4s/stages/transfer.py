"""A solver from elsewhere on a config's model: fitted on another model, with another guidance, or exported by hand."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from s4s.bundle import load_bundle
from s4s.curve import Curve
from s4s.errors import Error
from s4s.files import sha256
from s4s.solver import Solver
from s4s.stages.bench import Bench
from s4s.stages.cells import Cell, shards
from s4s.stages.chain import outside
from s4s.stages.evaluate import Scorer, target_files
from s4s.stages.features import Shard, extractor_files, read_shard, shard_of
from s4s.stages.files import write_json
from s4s.stages.fit import polish_elsewhere
from s4s.stages.provenance import provenance
from s4s.stages.sample import Samples, draw
from s4s.stages.verify import numbers
from s4s.values import NEAR


def evaluate_solver(
    bench: Bench, path: Path, nfe: int | None = None, polish: bool = False
) -> tuple[Path, dict[str, Any]]:
    """Sample a config's model with a given solver and score the samples as any cell of the config.

    Args:
        nfe: of a bundle or curve, the solver of this many evaluations.
        polish: go on from a curve for that number first, towards the config's teacher; the solver is
            ``transfers/solvers/<the score's name>``.

    Returns:
        The file written, ``transfers/<name>-<hash>.json`` (of several solvers ``<name>-nfe<n>-<hash>.json``), and what
        it says.

    Raises:
        Error: not a solver file, or one for other noise levels than the model's; to polish, no curve.
    """
    solver, named = _chosen(path, nfe)
    _require_levels(bench, solver, path)
    target = target_files(bench, solver.nfe)
    reads, elsewhere = bench.reads(*extractor_files(bench)[0], *target), outside(path)
    more: dict[str, Any] = {}
    if polish:
        found, more_reads, more_elsewhere = polish_elsewhere(bench, _curve(path), solver.nfe)
        solver, named = found.curve.at(solver.nfe), f"{named}-polished"
        reads, elsewhere = reads | more_reads, elsewhere | more_elsewhere
        more = {"polish": {**found.losses[solver.nfe], "evaluations": found.evaluations, "seconds": found.seconds}}
    model = bench.model.facts_of(range(bench.config["sample"]["n"]))
    scorer = Scorer(bench, (model.get("classes") or {"plan": "none"})["plan"])
    started = time.perf_counter()
    made_of = _shards(bench, solver)
    count = sum(shard.moments.count for shard in made_of)
    seconds, digest = time.perf_counter() - started, sha256(path)
    ends = [bench.process.sigma_max, bench.process.sigma_min]
    made = {
        "solver_file": str(path),
        "solver_sha256": digest,
        "solver": solver.name,
        "solver_provenance": dict(solver.provenance),
        "benchmark": bench.config["benchmark"],
        "nfe": solver.nfe,
        **scorer.scores(made_of, [read_shard(path) for path in target]),
        "fid_label": scorer.protocol.label(count),
        "n_samples": count,
        "seconds": seconds,
        "protocol": scorer.record({"model": model, "sigma_range": ends}, count),
        "provenance": provenance(bench, _cell(solver), model, bench.device_name),
        **more,
    }
    out = bench.folder.root / "transfers" / f"{named}-{digest[:8]}.json"
    write_json(out, made)
    bench.chain.note(out, "polish" if polish else "transfer", reads, scorer.files | elsewhere)
    if polish:
        solver.save(out.parent / "solvers" / out.name)
    return out, made


def _curve(path: Path) -> Curve:
    """The curve of a file."""
    found = load_bundle(path)
    if not isinstance(found, Curve):
        raise Error(f"{path}: holds no curve, which is what --polish goes on from; leave --polish out")
    return found


def _chosen(path: Path, nfe: int | None) -> tuple[Solver, str]:
    """The solver of a file, and what its score is called."""
    found = load_bundle(path)
    if nfe is None and len(found) > 1:
        raise Error(f"{path}: has solvers of {found.numbers} evaluations; give --nfe, one of them")
    try:
        solver = found[nfe if nfe is not None else next(iter(found))]
    except Error as error:
        raise Error(f"{path}: {error}") from error
    return solver, path.stem if len(found) == 1 else f"{path.stem}-nfe{solver.nfe}"


def _require_levels(bench: Bench, solver: Solver, path: Path) -> None:
    """Its levels are within the model's range, and it starts where the model's noise does, or says from what noise."""
    process, lowest = bench.process, solver.sigma_eval.min().item()
    first = (solver.sigma if solver.noise is None else solver.sigma_eval)[0].item()
    off = first / process.sigma_max - 1
    if off > NEAR or (off < -NEAR and solver.noise is None) or lowest < process.sigma_min * (1 - NEAR):
        ends = f"{process.sigma_max:g} to {process.sigma_min:g}"
        raise Error(f"{path}: starts at noise level {first:g} and evaluates down to {lowest:g}; the model of this "
                    f"config has {ends}: fit a solver on that range")  # fmt: skip


def _shards(bench: Bench, solver: Solver) -> list[Shard]:
    """What the features stage would write."""
    parts = ((first, draw(bench, [solver], first, last, f"{solver.name} {first}-{last}")[0])
             for first, last in shards(bench.config))  # fmt: skip
    facts = {"model": dict(bench.model.facts)}
    return [shard_of(bench, Samples(*drawn, facts), first) for first, drawn in parts]


def _cell(solver: Solver) -> Cell:
    """What the record of a number knows of its fit."""
    made = solver.provenance
    return Cell(str(made.get("method", "given")), solver.name, {}, "", solver.nfe, made.get("seed"))


def uses(folders: Sequence[Path], patterns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any], str, dict[str, Any]]]:
    """Solvers of several benchmarks, each used on all of them; what was scored before is not scored again.

    A classical solver is nowhere fitted, so it counts on its own benchmark alone.

    Args:
        folders: results, each with its ``config.yaml``.
        patterns: of names of cells, such as ``s4s-alt_*``.

    Yields:
        Where it was fitted, its own metrics, where it is used, and its metrics there.

    Raises:
        Error: no cell of such a name, results without a config, or whose noise levels are others.
    """
    benches = {folder.resolve(): _bench(folder.resolve()) for folder in folders}
    if twice := {folder.name for folder in benches if sum(folder.name == other.name for other in benches) > 1}:
        raise Error(f"two of the folders hold benchmark {min(twice)}; give one of each")
    own = {folder: _metrics(folder, patterns) for folder in benches}
    for place, bench in benches.items():
        for folder, records in own.items():
            for name, record in records.items():
                if folder == place:
                    yield ("" if record["method"] == "classical" else folder.name), record, place.name, record
                elif record["method"] != "classical":
                    yield folder.name, record, place.name, _used(bench, folder / "solvers" / f"{name}.json")


def _metrics(folder: Path, patterns: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Metrics of the cells of such names, by name."""
    files = [path for path in numbers(folder) if any(fnmatch(path.stem, pattern) for pattern in patterns)]
    found = {path.stem: json.loads(path.read_text()) for path in files}
    found = {name: record for name, record in found.items() if record["method"] != "teacher" and record["solver"]}
    if not found:
        raise Error(f"{folder}: no cell with a solver is called {' or '.join(patterns)}; `s4s cells CONFIG` lists them")
    return found


def _bench(folder: Path) -> Bench:
    """The benchmark of a folder of results."""
    from s4s.stages.config import load

    if not (folder / "config.yaml").exists():
        raise Error(f"{folder}: has no config.yaml; run the benchmark with `s4s run` first")
    config = load(folder / "config.yaml")
    if config["benchmark"] != folder.name:
        raise Error(f"{folder}: holds benchmark {config['benchmark']}; name the folder so")
    return Bench(config, folder.parent)


def _used(bench: Bench, solver: Path) -> dict[str, Any]:
    """What a solver scores there."""
    out = bench.folder.root / "transfers" / f"{solver.stem}-{sha256(solver)[:8]}.json"
    if not bench.chain.follows(out):
        out, _ = evaluate_solver(bench, solver)
    made: dict[str, Any] = json.loads(out.read_text())
    return made
