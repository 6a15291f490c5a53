"""How near textbook solvers come to the teacher on every grid, those found by search among them.

    python benchmarks/grids.py results/digits results/digits-vp results/digits-flow results/digits-latent

Takes the network and the process of benchmarks that have run. Prints for each number of evaluations and grid the median
over 64 noises of the mean squared difference from 40 steps of DPM-Solver++(3M), for the best of three solvers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import s4s
from s4s.stages.bench import Bench
from s4s.stages.config import load

GRIDS = ("logsnr", "edm", "uniform", "quadratic", "gits", "even")
SOLVERS = ("ipndm", "dpmpp", "unipc")
NOISES, SEED = 64, 3  # that solvers are compared on; grids are searched on others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", nargs="+", type=Path)
    parser.add_argument("--nfe", nargs="+", type=int, default=[4, 5, 6, 8, 10])
    args = parser.parse_args()
    print("| benchmark | NFE |", " | ".join(GRIDS), "|")
    print("|---" * (2 + len(GRIDS)) + "|")
    for folder in args.results:
        for nfe, row in distances(folder, args.nfe).items():
            print(f"| {folder.name} | {nfe} |", " | ".join(f"{value:.5f}" for value in row), "|", flush=True)


@torch.no_grad()
def distances(folder: Path, nfes: list[int]) -> dict[int, list[float]]:
    """Number of evaluations -> the best solver's distance on every grid."""
    bench = Bench(load(folder / "config.yaml"), folder.parent)
    process, shape = bench.process, bench.model.shape
    denoise, search = bench.denoiser(range(NOISES)), bench.denoiser(range(32))
    strong = s4s.solver("dpmpp", s4s.grid("logsnr", process, 40), order=3)
    x_T = strong.x_T(s4s.noise(SEED, range(NOISES), shape)).float()
    y = s4s.sample(strong, denoise, x_T, check=False)

    def missed(name: str, levels: torch.Tensor) -> float:
        x = s4s.sample(s4s.solver(name, levels, order=min(3, len(levels) - 1)), denoise, x_T, check=False)
        return (x - y).square().flatten(1).mean(1).median().item()

    found: dict[int, list[float]] = {}
    for nfe in nfes:
        found[nfe] = []
        for schedule in GRIDS:
            asked: dict[str, Any] = {"denoise": search, "shape": shape} if schedule in ("gits", "even") else {}
            asked |= {"warmup": 32, "batch": 32} if schedule == "gits" else {}
            levels = s4s.grid(schedule, process, nfe, **asked)
            found[nfe].append(min(missed(name, levels) for name in SOLVERS))
    return found


if __name__ == "__main__":
    main()
