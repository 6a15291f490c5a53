"""A solver, or a curve of them, as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, as_tensor

from s4s.curve import LEVELS, Curve, scales
from s4s.errors import Error
from s4s.guidance import merge_guidance
from s4s.noise import Start
from s4s.solver import Solver

ROUNDING = 1e-9


def describe(solver: Solver) -> str:
    """Grid, evaluation levels and weights as aligned columns, then where the solver comes from."""
    numbers = solver.detach()
    decoupled = not bool((numbers.sigma_eval == numbers.sigma[:-1]).all())
    lines = [f"{solver.name}: {solver.nfe} evaluations, sigma {numbers.sigma[0]:.6g} to {numbers.sigma[-1]:.6g}"]
    lines += [] if solver.noise is None else [f"starting noise: {_noise(solver.noise)}"]
    lines.append("")
    header = ["node", "sigma", *(["evaluated at"] if decoupled else []), "x_T", *(f"D[{j}]" for j in range(solver.nfe))]
    rows = [header]
    for n in range(solver.nfe + 1):
        level = [f"{numbers.sigma_eval[n]:.6g}" if n < solver.nfe else "-"] if decoupled else []
        used = [f"{w:+.5f}" for w in numbers.weight[n, :n].tolist()]
        rows.append([str(n), f"{numbers.sigma[n]:.6g}", *level, f"{numbers.start[n]:.5g}", *used])
    own = [] if numbers.null is None else ["", *_guidance(numbers)]
    lines += [*_aligned(rows), *own, "", *_simple(solver.provenance)]
    return "\n".join(lines)


def describe_curve(curve: Curve, few: tuple[int, ...] = (4, 8, 16)) -> str:
    """What it corrects and by how much at each knot, for a few numbers of evaluations, then where it comes from."""
    start = curve.textbook(few[0]).name
    lines = [f"{curve.name}: {curve.numbers} evaluations; what it adds to {start}, at places from first to last step"]
    names = [*LEVELS, *(f"weight {lag}" for lag in range(len(curve.theta) - len(LEVELS)))]
    knots = curve.theta.shape[1]
    rows = [["", "NFE", *(f"{k / (knots - 1):.3g}" for k in range(knots))]]
    for nfe in few:
        values = (curve.theta.detach() @ scales(nfe, curve.powers, curve.own)).tolist()
        rows += [[name, str(nfe), *(f"{v:+.4f}" for v in row)] for name, row in zip(names, values, strict=True)]
    lines += ["", *_aligned(rows), "", *_simple(curve.provenance)]
    return "\n".join(lines)


def _aligned(rows: list[list[str]]) -> list[str]:
    """Rows as lines of columns, the first the longest."""
    widths = [max(len(row[k]) for row in rows if k < len(row)) for k in range(len(rows[0]))]
    return ["  ".join(cell.rjust(widths[k]) for k, cell in enumerate(row)) for row in rows]


def _simple(record: Mapping[str, Any]) -> list[str]:
    """What a line says of a record."""
    return [f"{key}: {v}" for key, v in record.items() if isinstance(v, str | int | float) or v is None]


def _guidance(solver: Solver) -> list[str]:
    """Of a solver that weighs outputs with and without the condition apart: its calls, and scales or both weights."""
    assert solver.null is not None
    alone = ", ".join(f"D[{j}]" for j, asked in enumerate(solver.asks) if not asked)
    of = "two of every evaluation" + f" but {alone}" * bool(alone)
    lines = [f"guidance of its own: {solver.calls} network calls, {of}", "weights above: of outputs with the condition"]
    try:
        scales = merge_guidance(solver)[1]
        return [*lines, "scale of each evaluation: " + ", ".join(f"{scale:.5g}" for scale in scales)]
    except Error:
        header = ["node", *(f"null[{j}]" for j in range(solver.nfe))]
        rows = [[str(n), *(f"{w:+.5f}" for w in solver.null[n, :n].tolist())] for n in range(1, solver.nfe + 1)]
        return [*lines, "of outputs without it:", *_aligned([header, *rows])]


def card(record: Mapping[str, Any]) -> str:
    """What a record says under ``card`` a solver is for, a line each; nothing where it says nothing."""
    said = record.get("card")
    lines = []
    for key, value in said.items() if isinstance(said, Mapping) else ():
        text = ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
        lines.append(f"{key}: {text}")
    return "\n".join(lines)


def levels(solver: Solver, *, flow: bool = False) -> str:
    """The levels as one line for a host, each once and the last as 0: the solver's steps, ending as hosts do.

    In full float32 precision: a first level off by 1e-5 is another noise scale in some hosts. ``flow`` gives the times
    of a rectified flow, ``sigma / (1 + sigma)``.
    """
    sigma = solver.detach().sigma.unique_consecutive()[:-1]  # the stages of heun share their levels
    values = sigma / (1 + sigma) if flow else sigma
    return ", ".join([*(f"{value:.9g}" for value in values.tolist()), "0"])


def lost(solver: Solver) -> str:
    """What a host that takes levels alone does not do of a solver, in one line."""
    numbers = solver.detach()
    words = [f"levels of {solver.name}, {solver.nfe} evaluations; the host's own sampler gives the weights"]
    off = (numbers.sigma_eval / numbers.sigma[:-1]).log().abs().max().expm1().item()
    if off > ROUNDING:
        words.append(f"the network is asked at these levels, not up to {100 * off:.3g}% beside them as fitted")
    if numbers.sigma[-1] > 0:
        words.append(f"the last step goes to 0, not to {numbers.sigma[-1]:.6g}")
    if solver.noise is not None:
        words.append(f"noise starts as the host has it, not at {_noise(solver.noise)}")
    return "lost: " + "; ".join(words)


def _noise(noise: Start) -> str:
    def ends(value: Tensor) -> str:
        low, high = value.min().item(), value.max().item()
        return f"{low:.6g}" if low == high else f"{low:.6g} to {high:.6g}"

    return f"mean {ends(as_tensor(noise.mean))}, scale {ends(as_tensor(noise.scale))}"
