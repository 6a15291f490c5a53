"""``s4s check-method``: a file of one's own run small, and what is missing from it.

The network is that of a cloud of points, whose denoiser is closed form, so the samples' error is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s import classical
from s4s.errors import Error
from s4s.grid import grid
from s4s.learn.teacher import teacher_set
from s4s.noise import noise
from s4s.process import EDM
from s4s.solver import Solver, sample
from s4s.stages.cell import BUILT_IN
from s4s.stages.own import Counted, Method, Sampler, load_method, made_solver, samples

SHAPE, NFES, SEED = (1, 4, 4), (4, 8), 0
Line = tuple[bool, str]


def cloud(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x_0 | x_0 + sigma eps = x] for 16 points of the given shape, spread 0.5: the exact network of a data set."""
    points = 0.5 * noise(7, range(16), SHAPE).to(x)
    gaps = ((x[:, None] - points[None]) ** 2).flatten(2).sum(2)
    level = torch.as_tensor(sigma).to(x).reshape(-1, 1)
    return torch.einsum("bk,kchw->bchw", torch.softmax(-gaps / (2 * level**2), 1), points)


def check(path: Path) -> tuple[list[str], bool]:
    """Lines about a method's file, ``ok`` or ``missing``, and whether it is whole."""
    lines: list[Line] = []
    try:
        method = load_method(path)
        lines.append((True, f"holds {method.kind}"))
        lines += _checks(method)
    except Error as error:
        lines.append((False, str(error)))
    whole = all(ok for ok, _ in lines)
    where = "learned.methods" if lines[0][1] == "holds fit" else "methods"
    lines += [(True, f"name it in a config: {where}: [{path.stem}]")] if whole else []
    return [f"{'ok' if ok else 'missing':<8} {text}" for ok, text in lines], whole


def _checks(method: Method) -> Iterator[Line]:
    name, about = method.name, method.about
    good, taken = name.isidentifier() and name == name.lower(), name in BUILT_IN
    yield good, f"its name is {name}" if good else f"a name of small letters, digits and _: {name} is none"
    yield not taken, f"{name} is the name of a built-in method; rename the file" if taken else "its name is its own"
    yield bool(about), (about or "a docstring of the file, with its source").split("\n")[0]
    process = EDM()
    x_T = noise(SEED, range(32), SHAPE).float() * process.sigma_max
    truth, errors, again = sample(_strong(process), cloud, x_T), [], True
    for nfe in NFES:
        run, said = _runner(method, process, nfe)
        x = run(x_T)
        yield True, f"nfe {nfe}: {said()}"
        again &= torch.equal(x, run(x_T)) and torch.allclose(x[:5], run(x_T[:5]), atol=1e-4)
        errors.append((x - truth).square().mean().sqrt().item())
    yield again, "the same samples again, and one by one" if again else "samples depend on the call or on their batch"
    falls = errors[-1] < errors[0]
    said_errors = " and ".join(f"{error:.3g} at nfe {nfe}" for error, nfe in zip(errors, NFES, strict=True))
    yield falls, f"error on a cloud of points {said_errors}" + ("" if falls else ": it must fall")


def _runner(method: Method, process: Any, nfe: int) -> tuple[Callable[[Tensor], Tensor], Callable[[], str]]:
    """Noises -> samples of the method at ``nfe``, and what to say of it after a run."""
    if method.kind == "sample":
        counted = Counted(cloud)

        def run(x_T: Tensor) -> Tensor:
            counted.calls = 0
            return samples(Sampler(method, nfe), counted, x_T, process)

        return run, lambda: f"calls the network {counted.calls} times"
    given: dict[str, Any] = {"process": process, "nfe": nfe}
    if method.kind == "fit":
        start = classical.solver("ipndm", grid("edm", process, nfe), order=3)
        teacher = teacher_set(_strong(process), cloud, 48, SHAPE, seed=SEED + 1)
        given = {"start": start, "denoise": cloud, "teacher": teacher, "seed": SEED}
    solver = made_solver(method, nfe, given)
    return lambda x_T: sample(solver, cloud, x_T), lambda: f"a solver of {solver.nfe} evaluations"


def _strong(process: Any) -> Solver:
    return classical.solver("dpmpp", grid("logsnr", process, 64), order=3)
