"""How much work learning takes: a network timed on two calls, what the work costs, and sizes that fit a time."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from s4s.classical import solver
from s4s.errors import Error
from s4s.even import SAMPLES, STEPS
from s4s.grid import grid
from s4s.learn.fit import fit
from s4s.learn.sketch import differentiable
from s4s.learn.teacher import teacher_set
from s4s.noise import noise
from s4s.process import EDM, Process
from s4s.solver import Denoise
from s4s.values import require_floats
from s4s.words import duration

ROWS = 8  # of the second call that is timed; the first has one
MOST_ROWS = 64
LEAST = 0.1  # seconds of calls that are timed, unless a single one takes longer
SPARE = 0.85  # of the time at hand that is planned for
METHOD = "s4s-alt"
LONG = 1800  # seconds, from which a plan says how to have a shorter one


@dataclass(frozen=True)
class Effort:
    """Sizes of the work.

    Args:
        samples: of the teacher, to learn from; the fits hold out a quarter of them.
        held_out: further ones, by which nothing is chosen.
        teacher: evaluations of the teacher.
        rounds: of a fit, at the most.
        tried: samples on which textbook solvers are compared.
        batch: rows of a network call.
    """

    samples: int
    held_out: int
    teacher: int
    rounds: int
    tried: int
    batch: int = 1

    def to_dict(self) -> dict[str, int]:
        return asdict(self)


LADDER = (
    Effort(16, 8, 20, 2, 4),
    Effort(24, 8, 24, 3, 4),
    Effort(32, 8, 30, 4, 8),
    Effort(48, 16, 40, 6, 8),
    Effort(96, 16, 40, 8, 8),
    Effort(192, 16, 40, 12, 16),
    Effort(512, 32, 40, 12, 16),
    Effort(1400, 64, 40, 12, 16),
)
DEFAULT = LADDER[3]


@dataclass(frozen=True)
class Pace:
    """What a network takes here.

    Args:
        batch: rows of a call: the ``ROWS`` that were tried, and on a CPU as many more as pay.
        seconds: of an evaluation, a row of such a call.
        means: of the outputs' squares; stand for the network, which has no name.
        reverse: whether fits go by reverse mode; by differences they take more, the more evaluations a sample has.
    """

    batch: int
    seconds: float
    means: tuple[float, ...]
    reverse: bool = True


def pace(
    under: Callable[[range], Denoise],
    process: Process,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: str | torch.device,
    batch: int | None = None,
) -> Pace:
    """Try a network at its first level; time it on one row at a middle level, and on ``ROWS`` at the last.

    Args:
        under: sample indices -> the network under their conditions.
        batch: what to take in place of the best found.

    Raises:
        Error: outputs of another shape, or that are not finite.
    """
    low, high = process.levels
    middle = math.sqrt(max(low, 1e-3) * high)
    first, alone = (_called(under, (level, 1), shape, dtype, device) for level in (high, middle))
    tried = [first, alone]
    try:
        tried.append(_called(under, (low if low > 0 else middle, ROWS), shape, dtype, device))
        busy, fits = tried[-1].busy, MOST_ROWS if torch.device(device).type == "cpu" else ROWS
    except torch.OutOfMemoryError:
        busy, fits = ROWS * alone.busy, 1
    each = max((busy - alone.busy) / (ROWS - 1), 0.02 * busy)  # of a row, and of the call around it
    around = max(alone.busy - each, 0.0)
    chosen = batch or min(max(2 ** round(math.log2(max(9 * around / each, 1))), ROWS), fits)  # at least what was tried
    waiting = tried[-1].seconds / max(tried[-1].busy, 1e-9)  # for other programs, or less than none on several cores
    return Pace(chosen, (each + around / chosen) * waiting, tuple(call.mean for call in tried),
                _reverse(under, middle, shape, dtype, device))  # fmt: skip


def _reverse(
    under: Callable[[range], Denoise], level: float, shape: tuple[int, ...], dtype: torch.dtype, device: Any
) -> bool:
    """Whether reverse mode can differentiate the network, tried on two rows as a fit tries it."""
    x = (math.hypot(level, 1) * noise(0, range(2), shape)).to(device, dtype)
    return not differentiable(under(range(2)), x, torch.full((2,), level).to(x))[0]


@dataclass(frozen=True)
class _Call:
    """Wall time; the processor's own where there is no GPU, which other programs do not change; the output's square."""

    seconds: float
    busy: float
    mean: float


def _called(
    under: Callable[[range], Denoise],
    at: tuple[float, int],
    shape: tuple[int, ...],
    dtype: torch.dtype,
    device: str | torch.device,
) -> _Call:
    """A call at a level with so many rows; the best of some, where it is short."""
    level, rows = at
    x = (math.hypot(level, 1) * noise(0, range(rows), shape)).to(device, dtype)
    sigma, denoise = torch.tensor(level, dtype=torch.float64), under(range(rows))
    clock = time.process_time if torch.device(device).type == "cpu" else time.perf_counter
    seconds = busy = math.inf
    until = time.perf_counter() + LEAST
    with torch.no_grad():
        while seconds == math.inf or time.perf_counter() < until:
            began, then = time.perf_counter(), clock()
            out = denoise(x, sigma)
            require_floats(out, "what the network gives")
            mean = out.double().square().mean().item()
            seconds, busy = min(seconds, time.perf_counter() - began), min(busy, clock() - then)
    if out.shape != x.shape:
        raise Error(f"the network gives shape {list(out.shape)} for states of shape {list(x.shape)}")
    if not math.isfinite(mean):
        raise Error(f"the network gives NaN or infinity at noise level {level:.4g}: check its weights and dtype")
    return _Call(seconds, busy, mean)


@dataclass(frozen=True)
class Cost:
    """Of a part of the work: evaluations, of which ``rows`` go forward, and seconds beside those of the network."""

    evaluations: float
    rows: float
    seconds: float = 0.0

    def times(self, factor: float) -> Cost:
        return Cost(factor * self.evaluations, factor * self.rows, factor * self.seconds)


def costs(effort: Effort, nfes: Sequence[int], candidates: Mapping[int, int], reverse: bool) -> dict[str, Cost]:
    """What every part of the work takes.

    Args:
        nfes: numbers of evaluations to learn for.
        candidates: number of evaluations -> textbook solvers that are compared.
        reverse: whether fits go by reverse mode.
    """
    pairs = effort.samples + effort.held_out
    made = {"teacher": Cost(pairs * effort.teacher, pairs * effort.teacher)}
    paths = min(SAMPLES, effort.samples) * STEPS
    made["even levels"] = Cost(paths, paths)
    for nfe in nfes:
        looked = nfe * effort.tried * candidates[nfe]
        made[f"textbook {nfe}"] = Cost(looked, looked)
        seen = min(nfes) if reverse else nfe
        found = fit_cost(seen, effort.samples, effort.rounds, effort.batch, reverse)
        made[f"fit {nfe}"] = found.times(nfe / seen)
    compared = 2 * sum(nfes) * effort.held_out
    return made | {"held-out": Cost(compared, compared)}


@cache
def fit_cost(nfe: int, samples: int, rounds: int, batch: int, reverse: bool) -> Cost:
    """Of a fit, seen on a small problem of its own with as many samples: three blobs in the plane."""
    seen = [0]

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        seen[0] += len(x)
        x, sigma = (x, sigma) if reverse else (x.detach(), sigma.detach())
        blobs, level = x.new_tensor([[1.0, 0.3], [-1.0, 0.8], [0.2, -1.0]]), sigma.to(x).reshape(-1, 1)
        near = -(x[:, None] - blobs).square().sum(2) / (2 * (level**2 + 0.01))
        return near.softmax(1) @ blobs

    process = EDM(0.03, 15.0)
    strong, start = (solver("unipc", grid("logsnr", process, n), order=min(n, 3)) for n in (16, nfe))
    teacher = teacher_set(strong, denoise, samples, (2,))
    seen[0] = 0
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluations = fit([start], denoise, teacher, rounds=rounds, patience=rounds, microbatch=batch).evaluations
    return Cost(evaluations, seen[0], time.perf_counter() - began)


def seconds(parts: Mapping[str, Cost], pace: Pace) -> dict[str, float]:
    """About how long every part takes."""
    return {name: cost.evaluations * pace.seconds + cost.seconds for name, cost in parts.items()}


def suited(
    pace: Pace, nfes: Sequence[int], candidates: Mapping[int, int], time: float | None, samples: int | None
) -> Effort:
    """The most work that fits ``time`` seconds; without one, a middle amount.

    Raises:
        Error: even the least takes longer.
    """

    def sized(effort: Effort) -> Effort:
        n = effort.samples if samples is None else samples
        return replace(effort, samples=n, tried=min(effort.tried, n), batch=min(pace.batch, n),
                       teacher=max(effort.teacher, 2 * max(nfes)))  # fmt: skip

    if time is None:
        return sized(DEFAULT)

    def takes(effort: Effort) -> float:
        return sum(seconds(costs(effort, nfes, candidates, pace.reverse), pace).values())

    low, high = 0, len(LADDER)  # the last that fits is from low on and below high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if takes(sized(LADDER[middle])) <= SPARE * time else (low, middle)
    if low == 0 and (least := takes(sized(LADDER[0]))) > time:
        raise Error(f"the least that can be learned here takes about {duration(least)}, more than the "
                    f"{duration(time)} given: give more time, or fewer numbers of evaluations")  # fmt: skip
    return sized(LADDER[low])


def lines(effort: Effort, candidates: Mapping[int, int], takes: Mapping[str, float], where: str) -> list[str]:
    """What will be done, and about how long it takes."""
    nfes = ", ".join(map(str, candidates))
    fits = sum(each for name, each in takes.items() if name.startswith("fit"))
    looks = takes["even levels"] + sum(each for name, each in takes.items() if name.startswith("textbook"))
    said = [
        (takes["teacher"], "teacher", f"{effort.samples} samples to learn from and {effort.held_out} held out, by a "
                                      f"textbook solver with {effort.teacher} evaluations"),
        (looks, "textbook", f"{max(candidates.values())} solvers and grids at {nfes} evaluations, on {effort.tried} "
                            "samples"),
        (fits, "fits", f"solvers of {nfes} evaluations ({METHOD}), at most {effort.rounds} rounds"),
        (takes["held-out"], "held-out", "textbook and learned solvers beside the teacher"),
    ]  # fmt: skip
    made = [f"  {name:<9}{duration(each):>8}  {what}" for each, name, what in said]
    total = duration(sum(takes.values()))
    less = "; with a time given, less is done in less" if sum(takes.values()) > LONG else ""
    return [*made, f"about {total} on {where}, {effort.batch} rows a call, timed on two calls just now{less}"]
