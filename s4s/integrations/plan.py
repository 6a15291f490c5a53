"""A solver in a host's terms: network times, and the host's own coordinates at every evaluation, as plain numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error
from s4s.guidance import require_mixed
from s4s.process import Process
from s4s.solver import Solver, solver_from_dict
from s4s.values import plain

NEAR = 0.01  # how far the host's starting state may be from what the solver starts from, relative


@dataclass(frozen=True)
class Plan:
    """What a host needs to run a solver: lists of Python floats, which survive JSON to the bit.

    Args:
        solver: the solver, as ``Solver.to_dict``.
        times: [N] what the network is told.
        alpha, noise: [N] signal and noise scale of the state the network is given, in the host's coordinates.
    """

    solver: dict[str, Any]
    times: list[float]
    alpha: list[float]
    noise: list[float]

    @property
    def nfe(self) -> int:
        return len(self.times)

    def rows(self) -> list[tuple[float, list[float]]]:
        """Of each step, the weight of the first state and of every output so far, in the host's coordinates.

        The state of a step is scaled by the alpha of the next evaluation; the last is in data units.
        """
        scale = [*self.alpha[1:], 1.0]
        start, weight = self.solver["start"], self.solver["weight"]
        return [
            (a * start[n + 1] / self.alpha[0], [a * w for w in weight[n + 1][: n + 1]]) for n, a in enumerate(scale)
        ]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, of fresh lists."""
        made: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return made


def plan(solver: Solver, process: Process, time_scale: float = 1.0) -> Plan:
    """The plan of a solver for a network of ``process``; ``time_scale`` multiplies the network's time.

    Raises:
        Error: the solver's levels lie outside what the process has, or it has guidance of its own.
    """
    require_mixed(solver, "the host")
    solver = solver.detach()
    told = solver.sigma_eval
    ends: tuple[float, float] = process.sigma_max, process.sigma_min
    if told.max() > ends[0] * (1 + NEAR) or told.min() < ends[1] * (1 - NEAR):
        found = f"{told.max().item():.6g} to {told.min().item():.6g}"
        raise Error(f"{solver.name} asks for levels {found}, the process has {ends[0]:.6g} to {ends[1]:.6g}")
    times = process.time(told)
    numbers = (process.model_time(told) * time_scale, process.alpha(times), process.sigma(times))
    return Plan(json.loads(json.dumps(solver.to_dict(), default=plain)), *(_floats(value) for value in numbers))


def solvers_of(solver: Any) -> list[Solver]:
    """A solver, or those of a bundle or curve, in a list."""
    found = [solver] if isinstance(solver, Solver) else [*solver.values()] if isinstance(solver, Mapping) else []
    if not found or not all(isinstance(each, Solver) for each in found):
        raise Error(f"a solver is needed, or a bundle or curve of them, got {type(solver).__name__}")
    return found


def flows(made: Plan) -> bool:
    """Whether its states are a flow's in the time of flow pipelines, ``(1 - t) x_0 + t eps`` at ``1000 t``."""
    rows = zip(made.times, made.alpha, made.noise, strict=True)
    return all(math.isclose(a + s, 1) and math.isclose(t, 1000 * s, rel_tol=1e-6) for t, a, s in rows)


def require_standard_start(made: Plan) -> None:
    """Refuse a solver for a host whose first state is standard normal, where it starts from something else."""
    start, first = made.solver.get("noise"), made.solver["sigma"][0]
    mean, scale = (0.0, first) if start is None else (start["mean"], start["scale"])
    off = torch.as_tensor(scale, dtype=torch.float64) * made.alpha[0] - 1
    if torch.as_tensor(mean).any() or off.abs().max() > NEAR:
        size = (off.abs().max() + 1).item() if off.max() > 0 else (1 - off.abs().max()).item()
        what = f"a standard deviation of {size:.4g}" if not torch.as_tensor(mean).any() else "a mean other than 0"
        raise Error(f"{made.solver['name']} starts from a state with {what}, the host from a standard normal one: fit "
                    f"it with a teacher set of scale={1 / made.alpha[0]:.6g}, or from the process's t_max")  # fmt: skip


def plan_from_dict(data: Any) -> Plan:
    """Inverse of ``Plan.to_dict``, with the solver checked."""
    if not isinstance(data, Mapping) or {*data} != {"solver", "times", "alpha", "noise"}:
        raise Error("a solver of the scheduler's configuration needs 'solver', 'times', 'alpha' and 'noise'")
    solver = solver_from_dict(dict(data["solver"]))
    rows = [data[key] for key in ("times", "alpha", "noise")]
    if not all(isinstance(row, list | tuple) and len(row) == solver.nfe for row in rows):
        raise Error(f"times, alpha and noise of {solver.name} must hold {solver.nfe} numbers each")
    return Plan(solver.to_dict(), *([float(value) for value in row] for row in rows))


def _floats(value: Tensor) -> list[float]:
    made: list[float] = value.double().tolist()
    return made
