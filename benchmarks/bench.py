"""`make bench`: what sampling, fitting and the pipeline cost, as ratios to their floors, measured in one process.

    python benchmarks/bench.py [--out results] [--logs logs/digits] [--rounds 10]

Writes ``benchmark.json`` and ``benchmark.md`` there; docs/performance.md says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import digits
import pipeline
import torch
from measure import GIB, M, S, Task, interleaved, ratio
from tqdm import tqdm

from s4s.files import write_text
from s4s.learn.lean import lean, unlean
from s4s.learn.memory import keep_freed, recompute
from s4s.models.edm import CIFAR10

BATCH = 16
CELL = ("joint", 5, 0)  # method, NFE and seed of the fits that are compared
ADAM_STEPS, ROUNDS_OF_FIT, TRAINING = 300, 12, 800
TASKS = {"S, NFE 4": (S, 4), "S, NFE 10": (S, 10), "M, NFE 4": (M, 4)}
COLUMNS = {
    "sample / forwards": ("sample", "forwards"),
    "fitting step / floor": ("step", "floor"),
    "automatic / floor": ("automatic", "floor"),
    "lean / floor": ("lean", "floor"),
    "recompute / floor": ("recompute", "floor"),
    "lean and recompute / floor": ("both", "floor"),
}


def timing(task: Task, rounds: int, device: str) -> dict[str, float]:
    """Ratios of one network, batch and NFE."""

    def thin(denoise: Any) -> None:
        lean(task.net)
        task.step(denoise)
        unlean(task.net)

    again, automatic = recompute(task.net), recompute(task.net, None)
    runs = {
        "forwards": task.forwards,
        "sample": task.sample,
        "floor": task.floor,
        "step": lambda: task.step(task.net),
        "automatic": lambda: task.step(automatic),
        "lean": lambda: thin(task.net),
        "recompute": lambda: task.step(again),
        "both": lambda: thin(again),
    }
    taken = interleaved(runs, rounds, device)
    pass_ms = 1e3 * sorted(taken["forwards"])[rounds // 2] / task.nfe
    return {"forward ms": pass_ms} | {name: ratio(taken[a], taken[b]) for name, (a, b) in COLUMNS.items()}


def bytes_kept() -> dict[str, float]:
    """Saved activations; exact, the EDM CIFAR-10 network on the meta device, which has no memory behind it."""
    made: dict[str, float] = {}
    for nfe in (4, 10):
        task = Task(CIFAR10, 24, nfe, "meta")
        made[f"stock, NFE {nfe}"] = task.kept(task.net) / GIB
        made[f"recompute, NFE {nfe}"] = task.kept(recompute(task.net)) / GIB
        lean(task.net)
        made[f"lean, NFE {nfe}"] = task.kept(task.net) / GIB
        made[f"lean and recompute, NFE {nfe}"] = task.kept(recompute(task.net)) / GIB
    return made


def fits(models: Path) -> dict[str, Any]:
    """What our fit needs to reach Adam's loss: with its race and validation, Adam without."""
    method, nfe, seed = CELL
    denoise, origin = digits.denoiser(models, TRAINING)
    samples = digits.teacher(denoise)
    ours, _ = digits.ours(denoise, samples, method, digits.start(nfe), seed, ROUNDS_OF_FIT)
    theirs = digits.adam(denoise, samples, method, nfe, seed, ADAM_STEPS)[-1]
    point = digits.reach(ours, theirs.loss)
    return {
        "cell": f"{method}, iPNDM(3) on the EDM grid, NFE {nfe}, seed {seed}, L2",
        "network": origin,
        "start_loss": ours[0].loss,
        "adam": vars(theirs),
        "ours": None if point is None else vars(point),
        "ours_final": vars(ours[-1]),
        "evaluations_over_adam": None if point is None else point.evaluations / theirs.evaluations,
        "cpu_over_adam": None if point is None else point.seconds / theirs.seconds,
    }


def markdown(result: dict[str, Any]) -> str:
    """The tables of ``benchmark.json``."""
    lines = [f"{result['machine']}; batch {BATCH}, medians of {result['rounds']} interleaved rounds.", ""]
    lines += ["| network | forward ms | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, row in result["timing"].items():
        lines.append(f"| {name} | {row['forward ms']:.1f} | " + " | ".join(f"{row[key]:.2f}" for key in COLUMNS) + " |")
    kept = result["saved_gib_edm_cifar10_batch24"]
    lines += ["", "| EDM CIFAR-10, batch 24: saved GiB | NFE 4 | NFE 10 |", "|---|---|---|"]
    for name in ("stock", "lean", "recompute", "lean and recompute"):
        lines.append(f"| {name} | {kept[f'{name}, NFE 4']:.2f} | {kept[f'{name}, NFE 10']:.2f} |")
    fit = result["fits"]
    lines += ["", f"Fit ({fit['cell']}; network: {fit['network']}): start {fit['start_loss']:.5f}.", ""]
    lines += ["| | validation loss | evaluations | CPU seconds |", "|---|---|---|---|"]
    for name, key in (
        (f"Adam, {ADAM_STEPS} steps of 64", "adam"),
        ("ours, when it gets there", "ours"),
        ("ours, at its end", "ours_final"),
    ):
        if (point := fit[key]) is not None:
            lines.append(f"| {name} | {point['loss']:.5f} | {point['evaluations']:,.0f} | {point['seconds']:.1f} |")
    if "pipeline" in result:
        lines += ["", result["pipeline"]]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--logs", type=Path, default=Path("logs/digits"))
    parser.add_argument("--rounds", type=int, default=10)
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed()  # as the commands of s4s do
    started = time.perf_counter()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    times: dict[str, dict[str, float]] = {}
    for name, (config, nfe) in tqdm({f"{t}, {d}": v for d in devices for t, v in TASKS.items()}.items(), desc="timing"):
        device = name.rsplit(", ", 1)[1]
        times[name] = timing(Task(config, BATCH, nfe, device), args.rounds, device)
    kept, fit = bytes_kept(), fits(args.out / "digits" / "models")
    found = pipeline.stages(args.logs)
    start = pipeline.start_seconds() if found else 0.0
    on_cpu = [row for name, row in times.items() if name.endswith("cpu")]
    result = {
        "sample_over_floor": max(row["sample / forwards"] for row in on_cpu),
        "fit_step_over_floor": max(row["fitting step / floor"] for row in on_cpu),
        "fit_step_recompute_over_floor": max(row["recompute / floor"] for row in on_cpu),
        "saved_bytes_nfe10_over_nfe4": kept["lean and recompute, NFE 10"] / kept["lean and recompute, NFE 4"],
        "saved_gib_edm_cifar10_nfe10_batch24": kept["lean and recompute, NFE 10"],
        "evaluations_over_adam": fit["evaluations_over_adam"],
        "pipeline_useful_share": pipeline.share(found, start) if found else None,
        "machine": f"{platform.processor() or platform.machine()}, torch {torch.__version__}, 1 thread",
        "rounds": args.rounds,
        "timing": times,
        "saved_gib_edm_cifar10_batch24": kept,
        "fits": fit,
    } | ({"pipeline": pipeline.table(found, start)} if found else {})
    result["seconds"] = time.perf_counter() - started
    write_text(args.out / "benchmark.json", json.dumps(result, indent=2) + "\n")
    write_text(args.out / "benchmark.md", markdown(result))
    print(markdown(result))


if __name__ == "__main__":
    main()
