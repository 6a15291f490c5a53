"""What a run of the pipeline will do, and about how long it takes. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from s4s.stages.cells import cells, compares_by, curves, needs_features, quick_features, shards, taught, teacher_files
from s4s.words import duration

Config = Mapping[str, Any]
Counts = Mapping[str, int]
CHAIN = ("train", "download", "teacher", "fit", "sample", "features", "evaluate", "paths", "table", "figure")
"""Stages that wait for each other: a cell goes through all of them."""
TARGETS = ("sample", "features", "evaluate")  # rules without work: names for what others of their stage make


def job_counts(config: Config) -> dict[str, int]:
    """Jobs of a whole run, by stage."""
    all_cells = cells(config)
    learned = [cell for cell in all_cells if cell.learned]
    kinds, at = {cell.kind for cell in all_cells}, {(cell.kind, cell.nfe) for cell in all_cells}
    parts = len(shards(config))
    trained = config["model"]["type"] == "digits"
    counts = {
        "train" if trained else "download": 2 + (trained and compares_by(config, "feature")),
        "teacher": sum(len(teacher_files(config, cell)) for cell in taught(config)),
        "textbook": 1,
        "fit": sum(not cell.together for cell in learned) + len(curves(config)),
        "sample": len(at) * parts * config["sample"]["keep_images"],
        "features": len(kinds if quick_features(config) else at) * parts,
        "evaluate": len(at if needs_features(config) else kinds),
        "paths": int(bool(learned)),
        "table": 1,
        "figure": 1,
    }
    return {stage: n for stage, n in counts.items() if n}


def by_stage(rules: Counts) -> dict[str, int]:
    """Snakemake's count of jobs by rule, such as ``features_learned``, as one by stage."""
    found: dict[str, int] = {}
    for rule, n in rules.items():
        stage = rule.split("_")[0]
        if rule in TARGETS:
            continue
        if stage in (*CHAIN, "textbook"):
            found[stage] = found.get(stage, 0) + n
    return found


def wall_seconds(left: Counts, each: Mapping[str, float], cores: int) -> float:
    """About how long jobs take: their CPU time shared among the cores, or the chain of stages where that is longer."""
    total = sum(n * each[stage] for stage, n in left.items())
    chain = sum(each[stage] / min(cores, 2 if stage == "train" else 1) for stage in CHAIN if left.get(stage))
    return max(total / cores, chain)


def lines(config: Config, left: Counts, each: Mapping[str, float], cores: int) -> list[str]:
    """The plan as text: every stage with its jobs, the time, and where everything goes.

    Args:
        config: a loaded config.
        left: jobs to run, by stage.
        each: CPU seconds of a job, by stage, as ``s4s.stages.pace.job_seconds`` gives them; may be empty.
        cores: how many jobs run at once.
    """
    name, whole = config["benchmark"], sum(job_counts(config).values())
    n = sum(left.values())
    some = f"{n} jobs" if n == whole else f"{n} of {whole} jobs, the others are done"
    made = [f"{name}: {len(cells(config))} solvers to score, {some}"]
    what = _what(config)
    for stage, count in sorted(left.items(), key=lambda item: [*CHAIN[:3], "textbook", *CHAIN[3:]].index(item[0])):
        time = f"{duration(count * each[stage] / cores):>8}" if each else ""
        made.append(f"  {count:>4} {stage:<9}{time}  {what[stage]}")
    if each:
        core = "1 core" if cores == 1 else f"{cores} cores"
        made.append(f"about {duration(wall_seconds(left, each, cores))} on {core}, timed on this machine just now")
    else:
        made.append("`s4s doctor CONFIG` counts hours and disk")
    return [*made, f"results in results/{name}, what every job says in logs/{name}"]


def _what(config: Config) -> dict[str, str]:
    spec, n = config["teacher"], config["sample"]["n"]
    return {
        "train": "networks: the denoiser, and classifiers for scores and distances",
        "download": "weights, extractor and reference, checked and converted",
        "teacher": f"{spec['train'] + spec['validation']:,} samples of the teacher",
        "textbook": "the textbook solvers",
        "fit": "solvers to learn",
        "sample": f"{n:,} samples of each solver",
        "features": "their features" if config["sample"]["keep_images"] else f"{n:,} samples of each solver",
        "evaluate": "FID of each solver",
        "paths": "distance of every solver to the teacher, step by step",
        "table": "fid.csv and tables",
        "figure": "figures and report.html",
    }
