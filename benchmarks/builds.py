"""Two builds side by side: this one's S4S-Alt fits of the digits, and those of another commit.

    python benchmarks/builds.py [--commit 490e0a2] [--nfe 5 8] [--seeds 0 1 2] [--distance feature]

The other commit is unpacked into a folder of its own, and every fit runs in a fresh process of either build, in turn:
same network, same teacher samples, same machine. Prints, for each build and NFE, medians over the seeds and the worst:
held-out loss, its robust mean, evaluations, CPU time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
TRAIN, HELD_OUT = 1400, 512  # samples of the teacher


def fit_once(models: Path, distance: str, nfe: int, seed: int) -> dict[str, float]:
    """One fit by whichever build ``s4s`` is."""
    import torch

    import s4s
    from s4s.models import weights
    from s4s.models.digits import SHAPE, DigitsUNet

    torch.set_num_threads(1)
    process = s4s.EDM(0.002, 80.0)
    denoise = process.denoiser(weights.load(models / "denoiser.safetensors", DigitsUNet), prediction="x0")
    strong = s4s.solver("dpmpp", s4s.grid("logsnr", process, 40), order=3)
    samples = s4s.teacher_set(strong, denoise, n=TRAIN + HELD_OUT, shape=SHAPE, seed=0)
    d, apart = _distance(distance, models)
    started = time.process_time()
    start = s4s.solver("ipndm", s4s.grid("edm", process, nfe), order=3)
    found = s4s.fit(start, denoise, samples, "s4s-alt", distance=d, seed=seed, validation=HELD_OUT)
    spent = time.process_time() - started
    made = apart(s4s.sample(found.solver, denoise, samples.x_T[TRAIN:]), samples.y[TRAIN:]).double()
    c = 4 * made.median()
    robust = (c * (made / c).log1p()).mean().item()
    return {"loss": found.val_loss, "robust": robust, "evaluations": found.evaluations, "cpu_s": spent}


def _distance(name: str, models: Path) -> tuple[Any, Any]:
    """What ``s4s.fit`` of either build takes, and a function of student and teacher: a distance each."""
    if name == "l2":
        return name, lambda a, b: (a - b).square().flatten(1).mean(1)
    from s4s.models import weights
    from s4s.models.digits import Perceptual

    try:
        from s4s.learn.distance import feature
    except ImportError:  # before the package had wings
        feature = import_module("s4s.distance").feature
    made = feature(weights.load(models / "perceptual.safetensors", Perceptual).taps)
    return made, made


def unpacked(commit: str, folder: Path) -> Path:
    """The package as it was at a commit."""
    packed = subprocess.run(["git", "archive", commit, "s4s"], cwd=ROOT, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
    return folder


def run(build: Path, *asked: str) -> dict[str, float]:
    """A fit in a process of its own that imports s4s from a folder."""
    command = [sys.executable, "-W", "ignore", __file__, "--one", *asked]
    made = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(build)}, check=True, capture_output=True)
    found: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return found


def table(found: dict[tuple[str, int], list[dict[str, float]]]) -> str:
    """Markdown: a row a build and NFE; medians over the seeds, and the worst loss."""
    lines = ["| build | NFE | seeds | loss | worst | robust | evaluations | CPU s |", "|---" * 8 + "|"]
    for (build, nfe), fits in sorted(found.items(), key=lambda item: (item[0][1], item[0][0])):
        loss, robust, evaluations, cpu = (
            statistics.median(fit[key] for fit in fits) for key in ("loss", "robust", "evaluations", "cpu_s")
        )
        worst = max(fit["loss"] for fit in fits)
        lines.append(f"| {build} | {nfe} | {len(fits)} | {loss:.5f} | {worst:.5f} | {robust:.5f} "
                     f"| {evaluations:,.0f} | {cpu:.0f} |")  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commit", default="490e0a2")
    parser.add_argument("--models", type=Path, default=Path("results/digits/models"), help="trained by the pipeline")
    parser.add_argument("--nfe", nargs="+", type=int, default=[5, 8])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--distance", choices=["l2", "feature"], default="feature")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(fit_once(args.models, args.distance, args.nfe[0], args.seeds[0])))
        return
    found: dict[tuple[str, int], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        builds = {"this": ROOT, args.commit: unpacked(args.commit, Path(folder))}
        for seed, nfe, (name, build) in product(args.seeds, args.nfe, builds.items()):
            asked = ("--models", str(args.models), "--distance", args.distance, "--nfe", str(nfe), "--seeds", str(seed))
            found.setdefault((name, nfe), []).append(run(build, *asked))
            print(name, nfe, seed, json.dumps(found[name, nfe][-1]), flush=True)
    print(table(found))


if __name__ == "__main__":
    main()
