"""Textbook solvers by name: ``(name, grid, options) -> Solver``. The updates themselves are in ``s4s.textbook``."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any, Literal, get_args, get_type_hints

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from s4s.errors import Error, choose, require_choice
from s4s.solver import Solver
from s4s.textbook import SOLVERS, Arrays, Trace
from s4s.values import check_levels, doubles, whole, wholes


def solver(
    name: str,
    grid: Sequence[float] | Tensor,
    sigma_eval: Sequence[float] | Tensor | None = None,
    convert: Literal["eval", "grid"] = "eval",
    **options: Any,
) -> Solver:
    """A textbook solver on a grid.

    Args:
        name: one of ``s4s.solvers()``.
        grid: noise levels of the steps' ends, strictly decreasing; the last may be 0 where the solver allows it.
            Multistep solvers make one evaluation a step, ``heun`` two, singlestep solvers ``order``.
        sigma_eval: [nfe] level the network is given at each evaluation (decoupled times); default the node's own.
        convert: with decoupled times, where a noise prediction becomes data: ``eval`` (LD3) or ``grid`` (GAS).
        options: of the solver, as ``s4s.solvers()`` lists them.

    Raises:
        Error: unknown solver, option or value; more order than steps; a step to level 0 that needs its
            logarithm, or levels so far apart that a weight is not finite.
    """
    nodes = _checked_grid(grid)
    _check_options(name, options, len(nodes) - 1)
    require_choice("convert", convert, ("eval", "grid"))
    nfe = evaluations(name, len(nodes) - 1, end_at_zero=bool(nodes[-1] == 0), **options)
    times = None if sigma_eval is None else doubles(sigma_eval, "sigma_eval").to(nodes.device)
    if times is not None and times.shape != (nfe,):
        raise Error(f"sigma_eval has shape {list(times.shape)}, but {label(name, **options)} makes {nfe} evaluations")
    if times is not None and not ((times > 0) & times.isfinite()).all():
        raise Error("sigma_eval must be positive numbers: the network is never called at level 0")
    try:
        made = arrays(name, nodes, times, convert, **options)
    except LinAlgError as error:  # a matrix of logarithms with one of 0 among them
        raise _beyond(label(name, **options), nodes) from error
    if not all(array.isfinite().all() for array in made):
        raise _beyond(label(name, **options), nodes)
    kept = {key: v if isinstance(v, str | int | None) else torch.as_tensor(v).tolist() for key, v in options.items()}
    provenance = {"solver": name, "options": kept} | ({"convert": convert} if times is not None else {})
    return Solver(*made, name=label(name, **options), provenance=provenance)


def _beyond(name: str, grid: Tensor) -> Error:
    """What to say of a grid on which a solver's formula gives no numbers."""
    if grid[-1] == 0:
        return Error(f"{name} cannot step to level 0; end the grid above 0, or lower the last order")
    ends = f"{grid[0].item():.6g} to {grid[-1].item():.6g}"
    return Error(f"{name} has no finite weights on this grid of levels from {ends}; take levels of a process's range")


def arrays(name: str, grid: Tensor, sigma_eval: Tensor | None = None, convert: str = "eval", **options: Any) -> Arrays:
    """``(sigma, sigma_eval, start, weight)`` of a solver, without the checks: for ``torch.func`` and learning code.

    ``torch.func.vmap`` over grids works for all but ``heun``, whose number of evaluations depends on the last level.
    """
    end_at_zero = name == "heun" and bool(grid[-1] == 0)
    nfe = evaluations(name, len(grid) - 1, end_at_zero=end_at_zero, **options)
    trace = Trace(grid, nfe, sigma_eval, convert)
    try:
        last = SOLVERS[name](trace, grid, **options)
    except IndexError as error:
        if trace.left >= 0:
            raise
        raise Error(
            f"{name} calls the network more than {nfe} times on this grid; `evaluations` says how often"
        ) from error
    return trace.arrays(last, grid[-1])


def evaluations(name: str, steps: int, *, end_at_zero: bool = False, **options: Any) -> int:
    """Network evaluations that a solver spends on a grid of ``steps`` intervals."""
    if name == "heun":
        return 2 * steps - end_at_zero
    if options.get("singlestep"):
        return sum(options.get("orders") or [options.get("order", _options(name)["order"]["default"])] * steps)
    return steps


def intervals(name: str, nfe: int, *, end_at_zero: bool = False, **options: Any) -> int:
    """Intervals of the grid on which a solver spends ``nfe`` evaluations; inverse of ``evaluations``.

    Raises:
        Error: no grid gives that number, such as an odd one for ``heun``.
    """
    nfe = whole(nfe, "nfe")
    _require_options(name, options)
    if options.get("orders") and sum(options["orders"]) == nfe:
        return len(options["orders"])
    for steps in range(1, nfe + 1):
        if evaluations(name, steps, end_at_zero=end_at_zero, **options) == nfe:
            return steps
    each = evaluations(name, 1, **options)
    raise Error(f"{label(name, **options)} spends {each} evaluations a step: it has no grid of nfe {nfe}")


def solvers() -> dict[str, dict[str, dict[str, Any]]]:
    """The registered solvers: name -> option -> its ``default`` and, where they can be listed, its ``choices``."""
    return {name: _options(name) for name in SOLVERS}


def label(name: str, **options: Any) -> str:
    """Short name for tables: the order, then what differs from the defaults, such as ``unipc3-bh1``."""
    known = _options(name)
    changed = {key: v for key, v in options.items() if key != "order" and v != known[key]["default"]}
    words = {"lower_order_final": "nolof", "singlestep": "singlestep"}
    tags = [words.get(key, str(v)) for key, v in changed.items() if key not in ("orders", "inner")]
    return "-".join([f"{name}{options.get('order', known['order']['default'])}" if "order" in known else name, *tags])


def _options(name: str) -> dict[str, dict[str, Any]]:
    require_choice("solver", name, SOLVERS)
    _, _, *parameters = inspect.signature(SOLVERS[name]).parameters.values()
    hints = get_type_hints(SOLVERS[name])
    choices = {p.name: [True, False] if hints[p.name] is bool else list(get_args(hints[p.name])) for p in parameters}
    listed = {key: value for key, value in choices.items() if value and key not in ("orders", "inner")}
    return {
        p.name: {"default": p.default} | ({"choices": listed[p.name]} if p.name in listed else {}) for p in parameters
    }


def _require_options(name: str, options: dict[str, Any]) -> None:
    """Raise for an option that a solver does not have, or a value that it cannot be."""
    known = _options(name)
    for key, value in options.items():
        if key not in known:
            raise Error(f"solver {name!r} has no option {key!r}; its options: {', '.join(known) or 'none'}")
        choices = known[key].get("choices")
        if choices is None:
            continue
        fraction = isinstance(value, Real) and not isinstance(value, Integral)  # 2.0 is among 1, 2, 3
        if value not in choices or fraction or isinstance(value, bool) != isinstance(choices[0], bool):
            raise choose(f"{key} of solver {name!r}", value, choices)
    if options.get("orders") is not None:
        wholes(options["orders"], "orders")
    if options.get("inner") is not None and doubles(options["inner"], "inner").ndim != 1:
        raise Error("inner must be levels in a row, one for each stage inside a step")


def _check_options(name: str, options: dict[str, Any], steps: int) -> None:
    _require_options(name, options)
    known = _options(name)
    order = options.get("order", known["order"]["default"]) if "order" in known else 1
    if options.get("singlestep"):
        _check_singlestep(options, order, steps)
    elif order > steps:
        raise Error(f"{name} of order {order} needs a grid of at least {order} steps, got {steps}; lower the order")
    elif options.get("orders") is not None or options.get("inner") is not None:
        raise Error("the options 'orders' and 'inner' belong to singlestep=True")
    if name == "dpmpp" and options.get("variant", "midpoint") != "midpoint" and order != 2:
        raise Error(f"the dpmpp variant {options['variant']!r} exists at order 2 only, not at order {order}")


def _check_singlestep(options: dict[str, Any], order: int, steps: int) -> None:
    given = options.get("orders")
    orders = [order] * steps if given is None else list(given) if isinstance(given, Iterable) else [given]
    if not options.get("lower_order_final", True):
        raise Error("lower_order_final=False means nothing with singlestep=True; give the stages of each step, orders=")
    if len(orders) != steps or any(k not in range(1, order + 1) for k in orders):
        raise Error(f"orders = {orders} must hold a number of stages from 1 to {order} for each of the {steps} steps")
    inner, inside = options.get("inner"), sum(orders) - steps
    if inner is not None and len(inner) != inside:
        raise Error(f"inner holds {len(inner)} levels, but orders = {orders} have {inside} stages inside their steps")


def _checked_grid(grid: Sequence[float] | Tensor) -> Tensor:
    nodes = doubles(grid, "a grid of noise levels")
    if nodes.ndim != 1 or len(nodes) < 2:
        raise Error(f"a grid is at least two noise levels in a row, got shape {list(nodes.shape)}")
    check_levels(nodes.detach(), strictly=True)
    return nodes
