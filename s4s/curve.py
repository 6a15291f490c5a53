"""Curves: one set of smooth functions that gives the solver of any number of evaluations from 3 to 20.

Around a textbook solver on a grid of each number, step ``n`` of ``nfe`` lies at the place ``n / (nfe - 1)``, from 0 to
1, and is corrected by functions of that place and of ``nfe``:

    f(place, nfe) = sum_k hat_k(place) (sum_m c[k, m] (3 / nfe)^powers[m] + own[k, nfe])

with ``hat_k`` piecewise linear, 1 at knot ``k`` and 0 at the others, knots evenly spaced; ``own`` is there for a few of
the smallest numbers, whose solvers differ most from their neighbours', and 0 for all others. ``step`` adds to the
logarithm of the step's share of the log range, ``shift`` moves the level that the network is told, within half a step,
and ``weight[lag]`` adds to the weight of the output ``lag`` steps back. All zero is the textbook solver itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from s4s import classical, spacing
from s4s.errors import Error
from s4s.files import at_home, read_json, write_text
from s4s.noise import Start, noise_from_dict
from s4s.solver import Solver, require_solver
from s4s.steps import history, increments, lags, lower, shortest, walk
from s4s.textbook import Arrays
from s4s.values import check_levels, doubles, record_text, require_record

SCHEMA = "s4s-solver-curve"
SCHEMA_VERSION = 1
LEAST, MOST = 3, 20
NUMBERS = range(LEAST, MOST + 1)
KNOTS, POWERS, OWN = 7, (0, 1, 2, 3, 6), (4, 5)
LEVELS = ("step", "shift")
"""Functions of a curve before its weights."""


class _Base(NamedTuple):
    """The textbook solver of one number of evaluations, as what the functions add to; see ``steps``, ``spacing``."""

    solver: Solver
    form: str
    weights: Tensor
    n: Tensor
    lag: Tensor
    logits: Tensor
    shift: Tensor


@dataclass(frozen=True, eq=False)
class Curve(Mapping[int, Solver]):
    """Solvers of one model for every number of evaluations from 3 to 20; ``curve.at(6)``, or as a bundle ``curve[6]``.

    Args:
        solver, options: the textbook solver that is corrected, as ``s4s.solver`` takes them.
        levels: number of evaluations -> its grid [nfe + 1], for all of them.
        theta: [2 + order, knots, powers + own] coefficients: of ``step``, ``shift``, and the weight of each lag.
        powers: of ``3 / nfe``. ``own``: numbers of evaluations with a value of their own at every knot.
        name: what its solvers are called.
        provenance: JSON-able record of how it was made.
        noise: as in ``Solver``.

    Raises:
        Error: a grid is missing or does not fall to a level above 0, or coefficients that do not match.
    """

    solver: str
    options: Mapping[str, Any]
    levels: Mapping[int, Tensor]
    theta: Tensor
    powers: tuple[int, ...] = POWERS
    own: tuple[int, ...] = OWN
    name: str = "curve"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    noise: Start | None = None
    _bases: dict[int, _Base] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        require_record(self.name, self.provenance)
        object.__setattr__(self, "theta", doubles(self.theta, "the coefficients of a curve"))
        object.__setattr__(self, "levels", _grids(self.levels))
        shape, powers, own = self.theta.shape, len(self.powers), len(self.own)
        if len(shape) != 3 or shape[0] <= len(LEVELS) or shape[1] < 2 or shape[2] != powers + own:
            raise Error(f"the coefficients of a curve have shape {list(shape)}, need at least {len(LEVELS) + 1} "
                        f"functions of at least 2 knots, of {powers} powers and {own} own values each")  # fmt: skip
        if not self.theta.detach().isfinite().all():
            raise Error("a coefficient of the curve is NaN or infinite")
        self._base(MOST)

    def at(self, nfe: int) -> Solver:
        """The solver of a number of evaluations.

        Raises:
            Error: a number outside 3 to 20.
        """
        nfe = int(nfe) if nfe in NUMBERS else nfe  # 7.0 is 7
        record = {key: value for key, value in self.provenance.items() if key != "solver"}
        made = Solver(*self.arrays(nfe, self.theta), name=self.name, provenance=record, noise=self.noise)
        return made.detach()

    def arrays(self, nfe: int, theta: Tensor) -> Arrays:
        """Of coefficients, of any shape, the arrays of a solver; differentiable, usable under ``torch.func``."""
        base = self._base(nfe)
        value = torch.einsum("fkm,nk,m->fn", theta.reshape(self.theta.shape), *self._basis(nfe, theta))
        logits = base.logits + value[0, :-1] - value[0, -1:]
        sigma, sigma_eval = spacing.levels(logits, base.shift + value[1, 1:], base.solver.sigma[[0, -1]])
        weights = lower(base.weights + value[len(LEVELS) + base.lag, base.n], base.n, base.n - base.lag, nfe)
        return sigma, sigma_eval, *walk(weights, sigma, sigma_eval, base.form)

    def replace(self, **changes: Any) -> Curve:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @property
    def smooth(self) -> Tensor:
        """Indices of the flat coefficients that all numbers of evaluations share, those of the powers."""
        count = len(self.powers) + len(self.own)
        every = torch.arange(self.theta.numel())
        return every[every % count < len(self.powers)]

    def _basis(self, nfe: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Hats at the places of the steps [nfe, knots], and the powers of ``3 / nfe``."""
        knots = self.theta.shape[1]
        at = torch.linspace(0, knots - 1, nfe, dtype=like.dtype)[:, None]
        hats = (1 - (at - torch.arange(knots)).abs()).clamp(min=0)
        return hats, scales(nfe, self.powers, self.own).to(like)

    def _base(self, nfe: int) -> _Base:
        if nfe not in NUMBERS:
            raise Error(f"no solver makes {nfe!r} evaluations here, a curve has those from {self.numbers}")
        if nfe not in self._bases:
            form = None if nfe == MOST else self._base(MOST).form
            self._bases[nfe] = _base(self.textbook(nfe), form, len(self.theta) - len(LEVELS))
        return self._bases[nfe]

    def textbook(self, nfe: int) -> Solver:
        """The solver that the curve corrects."""
        return classical.solver(self.solver, self.levels[nfe], **self.options)

    def __getitem__(self, nfe: int) -> Solver:
        return self.at(nfe)

    def __contains__(self, nfe: object) -> bool:
        return nfe in NUMBERS

    def get(self, nfe: int, default: Any = None) -> Any:
        """The solver of a number of evaluations, or ``default``."""
        return self.at(nfe) if nfe in NUMBERS else default

    def __iter__(self) -> Iterator[int]:
        return iter(NUMBERS)

    def __len__(self) -> int:
        return len(NUMBERS)

    @property
    def numbers(self) -> str:
        """The numbers of evaluations, for messages."""
        return f"{LEAST} to {MOST}"

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form; floats survive exactly."""
        step, shift, *weight = self.theta.detach().tolist()
        head = {"schema": SCHEMA, "version": SCHEMA_VERSION, "name": self.name, "nfe": [LEAST, MOST]}
        head |= {"solver": self.solver, "options": dict(self.options), "powers": list(self.powers)}
        head |= {"own": list(self.own)}
        noise = {} if self.noise is None else {"noise": self.noise.to_dict()}
        grids = {str(nfe): sigma.tolist() for nfe, sigma in self.levels.items()}
        made = head | {"step": step, "shift": shift, "weight": weight, "levels": grids}
        return made | noise | {"provenance": dict(self.provenance)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, a function's knots and a grid each a line. The file appears whole or not at all."""
        lines = []
        for key, value in self.to_dict().items():
            body = record_text(value)
            if key == "weight":
                body = "[\n" + ",\n".join(f"    {json.dumps(part)}" for part in value) + "\n  ]"
            if key == "levels":
                body = "{\n" + ",\n".join(f'    "{nfe}": {json.dumps(part)}' for nfe, part in value.items()) + "\n  }"
            lines.append(f"  {json.dumps(key)}: {body}")
        write_text(at_home(path), "{\n" + ",\n".join(lines) + "\n}\n")


def curve(
    start: Callable[[int], Solver],
    *,
    knots: int = KNOTS,
    powers: tuple[int, ...] = POWERS,
    own: tuple[int, ...] = OWN,
) -> Curve:
    """The curve through textbook solvers, before anything is learned.

    Args:
        start: number of evaluations, 3 to 20 -> a textbook solver with one evaluation a step, such as
            ``lambda nfe: s4s.solver("ipndm", s4s.grid("edm", process, nfe), order=3)``.
        knots: of every function. powers: of ``3 / nfe`` that every knot's value is a sum of. own: numbers of
            evaluations at which it has a value of its own besides.

    Raises:
        Error: a start that is no textbook solver, not the same for every number, or looks back on ever more outputs.
    """
    if not callable(start):
        raise Error("a curve starts from a function of the number of evaluations: lambda nfe: s4s.solver(...)")
    solvers = {nfe: start(nfe) for nfe in NUMBERS}
    for solver in solvers.values():
        require_solver(solver)
    solvers = {nfe: solver.detach() for nfe, solver in solvers.items()}
    made: dict[str, Any] = dict(solvers[MOST].provenance)
    for nfe, solver in solvers.items():
        known = {key: solver.provenance.get(key) for key in ("solver", "options")}
        if known["solver"] is None or solver.nfe != nfe or len(solver.sigma) != nfe + 1:
            raise Error(f"start({nfe}) is {solver.name} of {solver.nfe} evaluations; a curve needs a textbook solver "
                        f"made by s4s.solver, with {nfe} evaluations, one a step")  # fmt: skip
        if known != {key: made[key] for key in known}:
            raise Error(f"start({nfe}) is {solver.name}, start({MOST}) {solvers[MOST].name}; a curve corrects one")
    order = history(shortest(solvers[MOST], "eval")[1])
    theta = torch.zeros(len(LEVELS) + order, knots, len(powers) + len(own), dtype=torch.float64)
    levels = {nfe: solver.sigma for nfe, solver in solvers.items()}
    found = Curve(made["solver"], made["options"], levels, theta, powers, own, f"{solvers[MOST].name}-curve")
    for nfe in NUMBERS:
        found._base(nfe)
    return found


def load_curve(path: str | os.PathLike[str]) -> Curve:
    """Read a curve saved by ``Curve.save``.

    Raises:
        Error: the file is missing, is not JSON, is of another schema, or does not hold a curve.
    """
    data = read_json(path)
    try:
        return curve_from_dict(data)
    except Error as error:
        raise Error(f"{path}: {error}") from error


def curve_from_dict(data: Any) -> Curve:
    """Inverse of ``Curve.to_dict``."""
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise Error(f"not an {SCHEMA} file: the key 'schema' must be {SCHEMA!r}")
    if data.get("version") != SCHEMA_VERSION:
        raise Error(f"curve schema version {data.get('version')!r} is not supported; this s4s reads {SCHEMA_VERSION}")
    kinds = {"solver": str, "name": str, "options": dict, "powers": list, "step": list, "shift": list, "weight": list,
             "levels": dict}  # fmt: skip
    for key, kind in (kinds | {"provenance": dict}).items():
        if not isinstance(data.get(key, {} if key == "provenance" else None), kind):
            words = {str: "text", dict: "an object", list: "a list"}
            raise Error(f"'{key}' of a curve must be {words[kind]}")
    own = data.get("own", [])
    for key, values in (("powers", data["powers"]), ("own", own)):
        if not isinstance(values, list) or not all(type(value) is int for value in values):
            raise Error(f"'{key}' of a curve must be whole numbers, got {values}")
    theta = doubles([data["step"], data["shift"], *data["weight"]], "the coefficients of a curve")
    try:
        levels = {int(nfe): grid for nfe, grid in data["levels"].items()}
    except ValueError as error:
        raise Error(f"'levels' of a curve has a key that is no number of evaluations: {error}") from error
    noise = noise_from_dict(data["noise"]) if "noise" in data else None
    return Curve(data["solver"], data["options"], levels, theta, tuple(data["powers"]), tuple(own), data["name"],
                 data.get("provenance", {}), noise)  # fmt: skip


def scales(nfe: int, powers: tuple[int, ...], own: tuple[int, ...] = ()) -> Tensor:
    """What the coefficients of each power, and of each own value, count at a number of evaluations."""
    return torch.tensor([*((LEAST / nfe) ** m for m in powers), *(float(nfe == n) for n in own)], dtype=torch.float64)


def _grids(levels: Mapping[int, Any]) -> dict[int, Tensor]:
    """The grids, checked, in rising order."""
    if {*levels} != {*NUMBERS}:
        missing = [nfe for nfe in NUMBERS if nfe not in levels]
        raise Error(
            f"a curve has a grid for every number from {LEAST} to {MOST}, not for {[*levels]}; missing: {missing}"
        )
    found = {}
    for nfe in NUMBERS:
        found[nfe] = sigma = doubles(levels[nfe], f"the grid of {nfe} evaluations")
        if sigma.shape != (nfe + 1,) or sigma[-1] == 0:
            raise Error(f"the grid of {nfe} evaluations needs {nfe + 1} levels down to one above 0: "
                        "s4s.grid(levels, process, nfe, end_at_zero=False) puts sigma_min there")  # fmt: skip
        check_levels(sigma, strictly=True)
    return found


def _base(solver: Solver, form: str | None, order: int) -> _Base:
    """A textbook solver as parameters, in the form of the others of its curve, with ``order`` outputs a step."""
    found, table = shortest(solver, "eval") if form is None else (form, increments(solver, form))
    if history(table) > order:
        raise Error(f"{solver.name} looks back on {history(table)} outputs at {solver.nfe} evaluations, the curve has "
                    f"weights for {order}")  # fmt: skip
    n, lag = lags(solver.nfe, order)
    logits, shift = spacing.parameters(solver, None)
    return _Base(solver, found, table[n, n - lag], n, lag, logits, shift)
