"""Learned solvers of others, from the files they publish: read as data, never run, and made the solver they are.

A file holds numbers of one update; what it leaves unsaid (the noise process, a textbook solver's name) is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from s4s.classical import label
from s4s.classical import solver as textbook
from s4s.discrete import VPDiscrete
from s4s.errors import Error
from s4s.files import sha256
from s4s.grid import grid as named_grid
from s4s.process import EDM, Flow, Process, VPLinear
from s4s.solver import Solver
from s4s.textbook import SOLVERS
from s4s.values import amount, doubles
from s4s.zoo import files, rows

LD3, DYWEIGHT, EPD, GS = "2405.15506", "2603.11607", "2507.14797", "2510.17699"
Grid = Sequence[float] | Process | None


def _compvis(first: float, last: float) -> VPDiscrete:
    """CompVis' training steps: betas whose roots are even."""
    betas = torch.linspace(first**0.5, last**0.5, 1000, dtype=torch.float64) ** 2
    return VPDiscrete((1 - betas).cumprod(0))


PROCESSES: dict[str, Callable[[], Process]] = {
    "edm": EDM,
    "vp-linear": VPLinear,
    "flow": Flow,
    "ldm": lambda: _compvis(0.0015, 0.0195),
    "sd": lambda: _compvis(0.00085, 0.012),
}
"""Of the models that published solvers are for: EDM's, score SDE's, rectified flows, latent and Stable Diffusion."""


def grid(levels: Sequence[float], process: Process, name: str = "ipndm", **options: Any) -> Solver:
    """A published grid (GITS, AYS, DMN, ...) under a textbook solver.

    Args:
        levels: noise levels, falling from the process's largest to its smallest, or to 0.
        process: of the model.
        name, options: of ``s4s.solver``.
    """
    return textbook(name, named_grid(levels, process, len(levels) - 1), **options)


def levels_of(times: Sequence[float], process: Process) -> list[float]:
    """Levels of training steps, 0 to K-1, of a process that has them, or of times of its own."""
    t = torch.as_tensor(times, dtype=torch.float64)
    if isinstance(process, VPDiscrete):
        t = (t + 1) / len(process.alphas_cumprod)
    found: list[float] = process.level(t).tolist()
    return found


def ld3(path: Path | str, process: Process, name: str = "ipndm", **options: Any) -> Solver:
    """Learned times of LD3 (``best_v1.pt``, ``best_v2.pt``) under the textbook solver they were learned for.

    Args:
        path: the file; ``best_t_steps`` holds the steps' times, then as many that the network is told.
        process: of the model; the times are its own.
        name, options: of ``s4s.solver``, a solver of one evaluation a step.

    Raises:
        Error: the file holds something else, or was refused.
    """
    both = files.torch_file(path).get("best_t_steps")
    if not isinstance(both, Tensor) or both.ndim != 1 or len(both) < 4 or len(both) % 2 or not both.isfinite().all():
        raise Error(f"{path}: holds no 'best_t_steps', two times for every node, as LD3 saves them")
    times, told = both.detach().double().reshape(2, -1)
    levels = process.level(times)
    nfe = textbook(name, levels, **options).nfe  # with its checks
    if nfe != len(times) - 1:
        raise Error(f"{name} makes {nfe} evaluations on these {len(times)} times; LD3's solvers make one a step")
    trace = rows.Decoupled(process.level(told[:-1]), process.alpha(times[:-1]) / process.alpha(told[:-1]))
    about = {"name": f"ld3({label(name, **options)})"} | _about(path, "ld3", LD3, solver=name, options=options)
    return trace.solver(SOLVERS[name](trace, levels, **options), levels[-1], _deviation(process, levels[0]), **about)


def dyweight(path: Path | str, levels: Grid = None) -> Solver:
    """The weights of DyWeight (``network-snapshot-*.pkl``).

    Args:
        path: the file; it says its own grid where that is polynomial, as for EDM's models.
        levels: the grid otherwise; or the model's process, in whose own time it is even.

    Raises:
        Error: the file holds something else, or was refused; its grid is not known.
    """
    predictor, loss = files.layers(path, ("predictor", "DyWeight_predictor"), ("loss_fn", "DyWeight_loss"))
    afs = predictor.state.get("afs") is True
    weight, mask, scale = files.numbers(
        path, predictor, hybrid_weights=(None, None), mask=(None, None), t_scale=(None,)
    )
    steps = len(weight)
    if not weight.shape == mask.shape == (steps, steps) or len(scale) != steps - afs:
        raise Error(f"{path}: its weights, mask and scales are not of one number of steps")
    facts = {"data": loss.state.get("dataset_name"), "guidance": predictor.state.get("guidance_rate"), "afs": afs}
    grid = _levels(path, loss.state, steps, levels)
    return rows.dyweight(
        grid, weight * mask, scale, afs, name="dyweight", **_about(path, "dyweight", DYWEIGHT, **facts)
    )


def epd(path: Path | str, levels: Grid = None) -> Solver:
    """The parameters of EPD-Solver (``*.pkl``) for models of eps.

    Args:
        path: the file; it says its own grid where that is polynomial.
        levels: the grid otherwise; or the model's process, in whose own time it is even.

    Raises:
        Error: the file holds something else, or was refused; its grid is not known; it is of a flow model, whose steps
            start at time 1.
    """
    (predictor,) = files.layers(path, ("model", "EPD_predictor"))
    state = predictor.state
    if state.get("backend", "ldm") != "ldm":
        raise Error(f"{path}: for {files.plain(state['backend'])}, a flow from time 1, which has no noise level")
    shape = (None, None)
    r, weight, direction, time = files.numbers(
        path, predictor, r_params=shape, weight_s=shape, scale_dir_params=shape, scale_time_params=shape
    )
    if not r.shape == weight.shape == direction.shape == time.shape:
        raise Error(f"{path}: its parameters are not of one number of steps and points")
    scale = _near_one(direction, state.get("scale_dir"))
    if state.get("fcn") is True:
        scale[-1] = 1  # the last step's slopes keep their length
    points = {"r": r.sigmoid(), "time": _near_one(time, state.get("scale_time")), "weight": weight.softmax(1) * scale}
    facts = {"data": state.get("dataset_name"), "guidance": state.get("guidance_rate")}
    grid, afs = _levels(path, state, len(r), levels), state.get("afs") is True
    return rows.epd(grid, points, afs, name="epd", **_about(path, "epd", EPD, **facts))


def gs(path: Path | str, process: Process | None = None, t_eps: float = 1e-3) -> Solver:
    """The averaged parameters of GS and GAS (``NUMBER.pt``).

    Args:
        path: the file.
        process: of the model, its most noise at time 1; default as they see EDM's models, VP times down to ``t_eps``.
        t_eps: the last time, between 0 and 1.

    Raises:
        Error: the file holds something else, or was refused; a process that starts at another time.
    """
    ema = files.torch_file(path).get("ema")
    shadow = ema.get("shadow_params") if isinstance(ema, Mapping) else None
    if not isinstance(shadow, list) or len(shadow) < 4 or not all(isinstance(each, Tensor) for each in shadow):
        raise Error(f"{path}: holds no averaged parameters, 'shadow_params' under 'ema', as GAS saves them")
    logits, shift, *rest = (each.detach().double() for each in shadow)
    own = [each for each in rest if each.shape == shift.shape]  # GAS' discriminator comes after them
    if logits.ndim != 1 or shift.shape != (len(logits) + 1,) or not own or len(own) % 2:
        raise Error(f"{path}: the parameters are not times, shifts, and two numbers a step for each order")
    moved = {"c": torch.stack(own[0::2]), "a": torch.stack(own[1::2])}
    if not 0 < amount(t_eps, "t_eps") < 1:
        raise Error(f"t_eps = {t_eps} must lie between 0 and 1, the times of most noise and of none")
    process = _vp_of_edm(t_eps) if process is None else process
    if process.time_range[0] != 1:
        raise Error(f"{path}: its times fall from 1, those of {process} from {process.time_range[0]:g}: give a process "
                    "that starts at 1, and none for EDM's models")  # fmt: skip
    return rows.gs(process, _stick(logits, t_eps), shift, moved, name="gs", **_about(path, "gs", GS, t_eps=t_eps))


def _stick(logits: Tensor, t_eps: float, offset: float = 1e-5) -> Tensor:
    """Times from 1 down to ``t_eps`` by breaking a stick (GAS, Eq. 14)."""
    share = logits.sigmoid() * (1 - 2 * offset) + offset
    inner = (1 - share.cumprod(0)) * (1 - t_eps) + t_eps
    ends = inner.new_tensor([t_eps, 1.0])
    return torch.cat([ends[:1], inner, ends[1:]]).flip(0)


def _vp_of_edm(t_eps: float, sigma_max: float = 80.0) -> Process:
    """The VP process that GAS lays over EDM's levels: from sigma_max at time 1 to that of betas 0.1 to 20 at t_eps."""
    high, low = math.log1p(sigma_max**2), 2 * (19.9 * t_eps**2 / 4 + 0.1 * t_eps / 2)
    slope = 2 * (low / t_eps - high) / (t_eps - 1)
    first = high - slope / 2
    return VPLinear(first, first + slope, t_min=t_eps)


def _deviation(process: Process, level: Tensor) -> float:
    """Of the noise a host starts from: ``sigma_max`` for EDM's models, standard normal in the state of others."""
    return float(level) if isinstance(process, EDM) else float(1 / process.alpha(process.time(level)))


def _near_one(raw: Tensor, most: Any) -> Tensor:
    """EPD's factors: within ``most`` of 1."""
    most = float(most or 0.0)
    return 2 * (raw / 2).sigmoid() * most + 1 - most


def _levels(path: Path | str, state: Mapping[str, Any], steps: int, levels: Grid) -> Tensor:
    """The grid of a file, or the one given for it."""
    if isinstance(levels, Process):
        return named_grid("uniform", levels, steps)
    if levels is not None:
        if len(levels) != steps + 1:
            raise Error(f"{path}: makes {steps} steps and needs {steps + 1} levels, got {len(levels)}")
        return doubles(levels, "levels")
    kind, ends = state.get("schedule_type"), [state.get(key) for key in ("schedule_rho", "sigma_min", "sigma_max")]
    if kind != "polynomial" or not all(type(value) in (int, float) for value in ends):
        raise Error(f"{path}: its grid is of kind {files.plain(kind)!r}, with levels of its model: give the model's "
                    "process, or the levels")  # fmt: skip
    rho, low, high = (float(value) for value in ends)  # type: ignore[arg-type]
    return named_grid("edm", EDM(low, high), steps, rho=rho)


def _about(path: Path | str, method: str, paper: str, **facts: Any) -> dict[str, Any]:
    kept = {key: value for key, value in facts.items() if isinstance(value, dict) or files.plain(value) is not None}
    path = Path(path)
    facts = {"method": method, "source": f"arXiv:{paper}", "file": path.name, "file_sha256": sha256(path)} | kept
    return {"provenance": facts}
