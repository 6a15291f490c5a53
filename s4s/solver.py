"""A solver is data: four arrays, one loop.

In EDM coordinates (state divided by alpha, so that ``x = x_0 + sigma * eps``) every deterministic explicit solver is

    x[0] = x_T
    x[n] = start[n] * x_T + sum_{j<n} weight[n, j] * D[j],      D[j] = denoise(x[j], sigma_eval[j])

Under guidance a solver may weigh outputs with and without the condition apart: ``+ sum_{j<n} null[n, j] D_null[j]``.
Textbook solvers (``s4s.classical``) and learned ones (``s4s.learn.family``) differ only in the numbers.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from s4s.ending import finished, prolonged
from s4s.errors import Error
from s4s.files import at_home, read_json, write_text
from s4s.noise import Start, noise_from_dict
from s4s.values import (
    check_levels,
    doubles,
    dtype_in_words,
    dumps,
    require_floats,
    require_function,
    require_known,
    require_record,
)

SCHEMA = "s4s-solver"
SCHEMA_VERSION = 1
WITH_NOISE = 2  # the schema of files that state a starting noise: a reader of 1 must not start them from another
WITH_NULL = 3  # and of those that weigh outputs with and without the condition apart, which 1 and 2 would mix
ARRAYS = ("sigma", "sigma_eval", "start", "weight")

Arrays = tuple[Tensor, ...]
"""Those of ``ARRAYS``, and ``null`` where a solver has that."""

Denoise = Callable[[Tensor, Tensor], Tensor]
"""``denoise(x, sigma) -> x_0``: x [B, ...] in EDM coordinates, sigma a scalar or [B] noise level in data units."""


@dataclass(frozen=True, eq=False)
class Solver:
    """A deterministic explicit solver with ``N = nfe`` network evaluations.

    Args:
        sigma: [N+1] noise level of each node, in data units; never rising, only the last may be 0.
        sigma_eval: [N] level handed to the network at each node; equals ``sigma[:-1]`` unless times are decoupled.
        start: [N+1] coefficient of x_T in each node; ``start[0] == 1``.
        weight: [N+1, N] coefficient of output ``D[j]`` in node ``n``; zero for ``j >= n``.
        null: [N+1, N] the same of the output without the condition, ``weight`` then being of the one with it. A column
            of zeros is not asked for. None: the denoiser gives one output, guided or not.
        name: what the solver is called in tables.
        provenance: JSON-able record of how it was made.
        noise: of ``x_T`` where it is not ``N(0, sigma[0]^2)``.

    Raises:
        Error: an array has the wrong shape or type, a level rises, or a node uses an output it cannot have yet.
    """

    sigma: Tensor
    sigma_eval: Tensor
    start: Tensor
    weight: Tensor
    name: str = "custom"
    provenance: Mapping[str, Any] = field(default_factory=dict)
    noise: Start | None = None
    null: Tensor | None = None
    asks: tuple[bool, ...] = field(init=False, repr=False, default=())

    def __post_init__(self) -> None:
        require_record(self.name, self.provenance)
        if not (self.noise is None or isinstance(self.noise, Start)):
            raise Error(f"noise of a solver must be an s4s.Start(mean, scale), got a {type(self.noise).__name__}")
        for key in self.arrays:
            object.__setattr__(self, key, doubles(getattr(self, key), f"solver array '{key}'"))
        _check(self)
        if self.null is not None:
            object.__setattr__(self, "asks", tuple(self.null.detach().ne(0).any(0).tolist()))

    @property
    def arrays(self) -> dict[str, Tensor]:
        """Its arrays by name: those of ``ARRAYS``, and ``null`` where it has that."""
        made = {key: getattr(self, key) for key in ARRAYS}
        return made if self.null is None else made | {"null": self.null}

    @property
    def calls(self) -> int:
        """Network calls a sample where ``null`` is apart; else the evaluations, of which a guided one is two calls."""
        return self.nfe + sum(self.asks)

    @property
    def nfe(self) -> int:
        """Number of network evaluations per sample."""
        return len(self.sigma_eval)

    def x_T(self, normal: Tensor) -> Tensor:
        """Standard normal noise [B, ...] (``s4s.noise``) -> where the solver starts, in EDM coordinates."""
        require_floats(normal, "the noise")
        return self.sigma[0].item() * normal if self.noise is None else self.noise.x_T(normal)

    def finish(self, *, evaluate: bool = True) -> Solver:
        """The solver taken on to level 0, for hosts that leave no noise.

        Args:
            evaluate: with one more evaluation, at the last level, whose output is the result; a solver with guidance of
                its own guides it as the last. Or without: the line through the last node and the last one above its
                level is followed to level 0.

        Raises:
            Error: it ends at level 0 already.
        """
        if self.sigma[-1] == 0:
            raise Error(f"{self.name} ends at level 0 already")
        made = finished(self.arrays) if evaluate else prolonged(self.arrays)
        record = dict(self.provenance) | {"finish": "one more evaluation" if evaluate else "none"}
        return self.replace(**made, name=f"{self.name}+finish", provenance=record)

    def replace(self, **changes: Any) -> Solver:
        """A copy with some fields changed."""
        return replace(self, **changes)

    def detach(self) -> Solver:
        """The same numbers, cut from any autograd graph and on the CPU."""
        return self.replace(**{key: value.detach().cpu() for key, value in self.arrays.items()})

    def to(self, device: torch.device | str) -> Solver:
        """The same solver with its arrays on a device: ``sample`` then copies nothing, so a CUDA graph can hold it."""
        moved = copy(self)  # checked already, and a check reads numbers from the device
        for key, value in self.arrays.items():
            object.__setattr__(moved, key, value.to(device))
        return moved

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form; floats survive exactly (shortest repr of a float64 is lossless)."""
        arrays = {key: value.detach().tolist() for key, value in self.arrays.items()}
        version = SCHEMA_VERSION if self.noise is None else WITH_NOISE
        version = version if self.null is None else WITH_NULL
        head = {"schema": SCHEMA, "version": version, "name": self.name, "nfe": self.nfe}
        noise = {} if self.noise is None else {"noise": self.noise.to_dict()}
        return head | arrays | noise | {"provenance": dict(self.provenance)}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as JSON, one matrix row a line. The file appears whole or not at all."""
        write_text(at_home(path), dumps(self.to_dict()))


def load_solver(path: str | os.PathLike[str]) -> Solver:
    """Read a solver saved by ``Solver.save``.

    Raises:
        Error: the file is missing, is not JSON, is of another schema, or its arrays do not make a solver.
    """
    data = read_json(path)
    try:
        return solver_from_dict(data)
    except Error as error:
        raise Error(f"{path}: {error}") from error


def solver_from_dict(data: Any) -> Solver:
    """Inverse of ``Solver.to_dict``."""
    if isinstance(data, dict) and data.get("schema") == "s4s-bundle":
        raise Error("a bundle of solvers; take one of them: s4s.load_bundle(path)[nfe]")
    if isinstance(data, dict) and data.get("schema") == "s4s-solver-curve":
        raise Error("a curve of solvers; take one of them: s4s.load_curve(path).at(nfe)")
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        raise Error(f"not an {SCHEMA} file: the key 'schema' must be {SCHEMA!r}")
    version = data.get("version")
    if type(version) is not int or version not in (SCHEMA_VERSION, WITH_NOISE, WITH_NULL):
        raise Error(f"solver schema version {version!r} is not supported; this s4s reads 1, 2 and 3")
    missing = [key for key in (*ARRAYS, "name") if key not in data]
    if missing:
        raise Error(f"the solver file lacks {', '.join(missing)}")
    noise = noise_from_dict(data["noise"]) if "noise" in data else None
    if (noise is not None) != (version == WITH_NOISE) and version != WITH_NULL:
        raise Error(f"'noise' belongs to schema version {WITH_NOISE}, and {WITH_NOISE} needs it")
    if ("null" in data) != (version == WITH_NULL) or data.get("null", ()) is None:
        raise Error(f"'null' belongs to schema version {WITH_NULL}, and {WITH_NULL} needs it")
    arrays = {key: data[key] for key in (*ARRAYS, "null") if key in data}
    made = Solver(**arrays, name=data["name"], provenance=data.get("provenance", {}), noise=noise)
    if data.get("nfe", made.nfe) != made.nfe:
        raise Error(f"'nfe' is {data['nfe']!r:.60}, and the arrays are of {made.nfe} evaluations")
    return made


def sample(
    solver: Solver,
    denoise: Denoise,
    x_T: Tensor,
    *,
    check: bool = True,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
    outputs: list[Tensor] | None = None,
) -> Tensor:
    """Run a solver. The only loop over steps in the package; differentiable in the arrays, the levels and ``x_T``.

    Args:
        solver: any ``Solver``.
        denoise: the network as ``denoise(x, sigma) -> x_0`` (see ``s4s.process``); for a solver with ``null`` one that
            tells its two outputs apart (a model with guidance, or ``s4s.guided``).
        x_T: [B, ...] starting noise in EDM coordinates, ``x_T ~ N(0, sigma[0]^2)``. Device and dtype follow it.
        check: test the outputs for NaN and infinity, once, after the loop (no host synchronisation inside it).
        callback: called with ``(n, x[n], D[n])`` after every evaluation, 0 to N-1; D is that with the condition.
        outputs: those of the first evaluations, of a solver without ``null``, where they are known; the others are
            appended.

    Returns:
        [B, ...] the last node, in data units.

    Raises:
        Error: a network output has the wrong shape, or is not finite, or the solver evaluates outside the levels that
            ``denoise`` says it knows; names the step and the level. Outputs that cannot be the solver's first.
    """
    require_solver(solver)
    require_floats(x_T, "x_T")
    require_function(denoise, "denoise", "process.denoiser(net)")
    if check:
        require_known(solver.sigma_eval, denoise)
    sigma_eval, start, weight = (
        a.to(x_T.device, non_blocking=True) for a in (solver.sigma_eval, solver.start, in_order(solver))
    )
    outputs, finite = [] if outputs is None else outputs, list[Tensor]()
    known = _known(outputs, solver, x_T)
    x = node(start[known], weight[known], x_T, outputs) if known else x_T
    for n in range(known, solver.nfe):
        with dtype_in_words(x):
            made = ask(denoise, x, sigma_eval[n], solver.asks[n] if solver.asks else None)
        if (found := getattr(made[0], "shape", None)) != x_T.shape:
            what = f"a {type(made[0]).__name__}" if found is None else f"shape {list(found)}"
            raise Error(f"denoise returned {what} at step {n} for states {list(x_T.shape)}")
        if check:
            finite.append(torch.stack([D.detach().isfinite().all() for D in made]).all())
        if callback is not None:
            callback(n, x, made[0])
        outputs += made
        x = node(start[n + 1], weight[n + 1], x_T, outputs)
    if check:
        _require_finite(finite, known, solver)
    return x


def require_solver(value: Any) -> None:
    """Raise for anything else than one solver."""
    if isinstance(value, Mapping):
        raise Error(f"one solver is needed, got a {type(value).__name__}: take that of a number of evaluations, "
                    "such as bundle[6]")  # fmt: skip
    if not isinstance(value, Solver):
        raise Error(f"a solver is needed, got a {type(value).__name__}: make one with s4s.solver, or read one with "
                    "s4s.load_solver")  # fmt: skip


def solver_of(arrays: Arrays, name: str = "custom") -> Solver:
    """The solver of its arrays in the order of ``Solver.arrays``."""
    sigma, sigma_eval, start, weight, *null = arrays
    return Solver(sigma, sigma_eval, start, weight, name=name, null=null[0] if null else None)


def in_order(solver: Solver) -> Tensor:
    """[N+1, calls] weights of all outputs in the order in which they are asked for."""
    if solver.null is None:
        return solver.weight
    both = torch.stack([solver.weight, solver.null], -1).flatten(1)
    return both[:, [2 * n + k for n, asked in enumerate(solver.asks) for k in range(1 + asked)]]


def ask(denoise: Denoise, x: Tensor, sigma: Tensor, both: bool | None) -> list[Tensor]:
    """The outputs of one evaluation: the denoiser's own, or (``both`` is not None) that with the condition and, if
    ``both``, that without."""
    if both is None:
        return [denoise(x, sigma)]
    columns = getattr(denoise, "columns", None)
    if columns is None:
        raise Error("this solver weighs outputs with and without the condition apart, and the denoiser gives one: load "
                    "the model with guidance, or make a denoiser of two with s4s.guided")  # fmt: skip
    made: list[Tensor] = list(columns(x, sigma, both))
    return made


def node(start: Tensor, weight: Tensor, x_T: Tensor, outputs: list[Tensor]) -> Tensor:
    """One application of the rule: ``start * x_T + sum_j weight[j] * outputs[j]``, in the dtype of ``x_T``."""
    x = start * x_T
    for j, D in enumerate(outputs):
        x = x + weight[j] * D.to(x_T.dtype)
    return x


def _check(solver: Solver) -> None:
    n = solver.sigma_eval.numel()
    table = (n + 1, n)
    shapes = {"sigma": (n + 1,), "sigma_eval": (n,), "start": (n + 1,), "weight": table, "null": table}
    for key, array in solver.arrays.items():
        value, shape = array.detach(), shapes[key]
        if value.shape != shape:
            raise Error(f"solver array '{key}' has shape {list(value.shape)}, needs {list(shape)} for nfe {n}")
        if not value.isfinite().all():
            raise Error(f"solver array '{key}' holds NaN or infinity")
    if n < 1:
        raise Error("a solver needs at least one network evaluation")
    check_levels(solver.sigma.detach(), strictly=False)
    if not (solver.sigma_eval.detach() > 0).all():
        raise Error("solver array 'sigma_eval' must be positive: the network is never called at level 0")
    tables = [solver.weight] if solver.null is None else [solver.weight, solver.null]
    if solver.start[0] != 1 or any(table.detach().triu().any() for table in tables):
        raise Error("not an explicit solver: needs start[0] == 1 and weight[n, j] == 0 for every j >= n")


def _known(outputs: list[Tensor], solver: Solver, x_T: Tensor) -> int:
    """How many evaluations are known, once their outputs can be the solver's."""
    if outputs and solver.null is not None:
        raise Error("outputs are known for solvers without null alone: here they are of two kinds")
    if len(outputs) > solver.nfe or any(D.shape != x_T.shape for D in outputs):
        shapes = ", ".join(str(list(D.shape)) for D in outputs)
        raise Error(f"outputs of shapes {shapes} for states {list(x_T.shape)} and nfe {solver.nfe}: give those of its "
                    "first evaluations on the same states")  # fmt: skip
    return len(outputs)


def _require_finite(finite: list[Tensor], first: int, solver: Solver) -> None:
    if finite and not torch.stack(finite).all():
        n = first + [bool(ok) for ok in finite].index(False)
        level = solver.sigma_eval[n].item()
        raise Error(f"the denoiser returned NaN or infinity at step {n} of {solver.nfe}, level sigma = {level:.6g}")
