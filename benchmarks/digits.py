"""Fits on digits: ours beside a plain Adam loop over the same family, from the same start."""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

import s4s
from s4s.files import sha256
from s4s.learn.distances import distance
from s4s.learn.family import family
from s4s.learn.memory import keep_freed
from s4s.learn.methods import METHODS
from s4s.models import weights
from s4s.models.digits import SHAPE, DigitsUNet
from s4s.solver import Denoise
from s4s.stages.train import train_denoiser

PROCESS = s4s.EDM(0.002, 80.0)
TRAIN, HELD_OUT = 1400, 512  # samples of the teacher
LR = 1e-2  # of 5e-3, 1e-2, 2e-2 and 5e-2 the one that is never far from the best after 300 steps


@dataclass(frozen=True)
class Point:
    """Cost of a fit so far, in network-forward-equivalents and seconds, and its validation loss."""

    evaluations: float
    seconds: float
    loss: float


def asked(about: str, out: str, nfe: list[int]) -> argparse.Namespace:
    """What the scripts of curves are asked for, and the hash of the trained network that they fit on.

    Args:
        about: the script's docstring.
        out, nfe: default folder and numbers of evaluations.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--models", type=Path, default=Path("results/digits/models"), help="trained by the pipeline")
    parser.add_argument("--methods", nargs="+", default=["s4s-alt", "joint"])
    parser.add_argument("--nfe", nargs="+", type=int, default=nfe)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    keep_freed()  # as the commands of s4s do
    weights = args.models / "denoiser.safetensors"
    if not weights.exists():
        sys.exit(f"{weights}: no trained denoiser; run `make reproduce` first")
    args.network = sha256(weights)[:8]
    return args


def denoiser(models: Path, steps: int) -> tuple[Denoise, str]:
    """The pipeline's network if it has been trained, else one trained here; and which it is."""
    path = models / "denoiser.safetensors"
    if path.exists():
        return PROCESS.denoiser(weights.load(path, DigitsUNet), prediction="x0"), f"{path}"
    net = train_denoiser(0, steps).requires_grad_(False)
    return PROCESS.denoiser(net, prediction="x0"), f"trained here, {steps} steps"


def teacher(denoise: Denoise, nfe: int = 40) -> s4s.TeacherSet:
    solver = s4s.solver("dpmpp", s4s.grid("logsnr", PROCESS, nfe), order=3)
    return s4s.teacher_set(solver, denoise, n=TRAIN + HELD_OUT, shape=SHAPE, seed=0)


def start(nfe: int) -> s4s.Solver:
    return s4s.solver("ipndm", s4s.grid("edm", PROCESS, nfe), order=3)


def ours(
    denoise: Denoise, samples: s4s.TeacherSet, method: str, begin: s4s.Solver, seed: int, rounds: int
) -> tuple[list[Point], s4s.Solver]:
    """``s4s.fit`` with its defaults, L2, from one start: the best validation loss so far after every round; the solver.

    Its cost has the validation and the race in it; seconds are in proportion to evaluations.
    """
    started = time.process_time()
    result = s4s.fit([begin], denoise, samples, method, seed=seed, rounds=rounds, validation=HELD_OUT)
    each = (time.process_time() - started) / result.evaluations
    points = [Point(0, 0.0, result.start_loss)]
    for record in result.history:
        evaluations = record["evaluations"]
        points.append(Point(evaluations, evaluations * each, min(points[-1].loss, record["val_loss"])))
    return points, result.solver


def adam(
    denoise: Denoise,
    samples: s4s.TeacherSet,
    method: str,
    nfe: int,
    seed: int,
    steps: int,
    batch: int = 64,
    lr: float = LR,
) -> list[Point]:
    """Adam on all parameters of the method at once, its step size falling as a cosine; betas 0.9 and 0.99.

    For S4S-Alt too, where it does better than on the blocks in turn. The best validation loss so far, taken ten times.
    """
    made, d = family(start(nfe), METHODS[method].family), distance("l2")
    x_T, y = samples.x_T, samples.y
    moves = torch.cat(made.turns(METHODS[method].cycle), 1)
    moved = made.theta.new_zeros(moves.shape[1], requires_grad=True)
    optimiser = torch.optim.Adam([moved], lr=lr, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    draw = torch.Generator().manual_seed(seed)

    def validation() -> float:
        with torch.no_grad():
            return d(s4s.sample(made.solver(made.theta + moves @ moved), denoise, x_T[TRAIN:]), y[TRAIN:]).mean().item()

    points, spent = [Point(0, 0.0, validation())], 0.0
    for k in range(steps):
        started = time.process_time()
        index = torch.randperm(TRAIN, generator=draw)[:batch]
        x = s4s.sample(made.solver(made.theta + moves @ moved), denoise, x_T[index], check=False)
        (moved.grad,) = torch.autograd.grad(d(x, y[index]).mean(), moved)
        optimiser.step()
        schedule.step()
        spent += time.process_time() - started
        if (k + 1) % max(steps // 10, 1) == 0:
            points.append(Point((k + 1) * batch * nfe * 2, spent, min(points[-1].loss, validation())))
    return points


def reach(points: list[Point], loss: float) -> Point | None:
    """The first point at or below a loss."""
    return next((point for point in points if point.loss <= loss), None)
