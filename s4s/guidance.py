"""Guidance as a part of the solver: outputs with and without the condition, weighed apart.

Classifier-free guidance (Ho & Salimans 2022) mixes two outputs, ``D_null + scale (D - D_null)``, at one scale for all
evaluations. A solver with ``null`` says itself how much of each goes into each node; the constant scale is one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from s4s.errors import Error
from s4s.solver import Denoise, Solver, require_solver
from s4s.values import doubles, require_function

ROUNDING = 1e-9  # of a column's largest weight: by how much columns may fail to be one scale's


def guided(conditional: Denoise, unconditional: Denoise, scale: float | Sequence[float] | Tensor) -> Denoise:
    """The denoiser under guidance, from one with the condition and one without.

    It also tells them apart, for solvers and fits with guidance of their own, but for a scale of each sample's own:
    with that one solver is fitted for a range of scales.

    Args:
        conditional, unconditional: denoisers of the same states and levels.
        scale: 1 is the conditional one alone; [B] is one for each sample of a batch, or of its stacked copies.

    Raises:
        Error: a scale that is neither.
    """
    own = _checked(scale)
    for each in (conditional, unconditional):
        require_function(each, "a denoiser under guidance", "process.denoiser(net)")

    def columns(x: Tensor, sigma: Tensor, both: bool) -> list[Tensor]:
        return [conditional(x, sigma)] + ([unconditional(x, sigma)] if both else [])

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        D, null = columns(x, sigma, True)
        return null + _rows(own, x) * (D - null)

    for key in ("process", "any_levels"):
        if hasattr(conditional, key) and hasattr(unconditional, key):
            setattr(denoise, key, getattr(conditional, key))
    return denoise if isinstance(own, Tensor) else apart(denoise, columns, own)


def _checked(scale: Any) -> float | Tensor:
    """One finite number, or one for each sample, [B]."""
    if isinstance(scale, Tensor) and scale.ndim == 1:
        return scale
    made = doubles(scale, "the guidance scale")
    if made.ndim > 1 or not made.isfinite().all():
        raise Error(f"the guidance scale must be one finite number, or one for each sample, got {made.tolist()!r:.60}")
    return made if made.ndim else made.item()


def _rows(scale: float | Tensor, x: Tensor) -> float | Tensor:
    """Scales [B], one for each row of x, which holds k copies of the batch one after the other."""
    if not isinstance(scale, Tensor):
        return scale
    if len(x) % max(len(scale), 1):
        raise Error(f"guidance scales of {len(scale)} samples do not fit a batch of {len(x)}")
    return scale.to(x).repeat(len(x) // len(scale)).reshape(-1, *[1] * (x.ndim - 1))


def apart(denoise: Denoise, columns: object, scale: float) -> Denoise:
    """A guided denoiser marked with its two outputs and its scale, which solvers with ``null`` and their fits need."""
    denoise.columns, denoise.guidance = columns, float(scale)  # type: ignore[attr-defined]
    return denoise


def split_guidance(solver: Solver, scale: float) -> Solver:
    """The same solver under guidance of a constant scale, as one that weighs the two outputs apart."""
    require_solver(solver)
    if solver.null is not None:
        return solver
    own = _checked(scale)
    if isinstance(own, Tensor):
        raise Error(f"a solver's own guidance begins at one scale, got {len(own)}")
    if own == 1:
        raise Error("guidance 1 is the conditional network alone: there is no second output to weigh")
    return solver.replace(weight=own * solver.weight, null=(1 - own) * solver.weight)


def merge_guidance(solver: Solver) -> tuple[Solver, list[float]]:
    """A solver for hosts that mix the two outputs themselves, and the scale of each evaluation.

    A scale of 1 needs no call without the condition. Inverse of ``split_guidance``.

    Raises:
        Error: an output with the condition is used in other proportions to the one without from step to step, which no
            scale of the host's says.
    """
    require_solver(solver)
    if solver.null is None:
        raise Error(f"{solver.name} has no guidance of its own: the host's scale is the one it was fitted at")
    total, scales = solver.weight + solver.null, []
    for j in range(solver.nfe):
        n = int(total[:, j].abs().argmax())
        scale = (solver.weight[n, j] / total[n, j]).item() if total[n, j] != 0 else float("inf")
        off = (solver.weight[:, j] - scale * total[:, j]).abs().max().item()
        if not off <= ROUNDING * solver.weight[:, j].abs().max().item():
            raise Error(f"{solver.name} weighs the outputs of evaluation {j} with and without the condition apart from "
                        "step to step, which a host that mixes them once cannot do; fit with family 'cfg'")  # fmt: skip
        scales.append(scale)
    return solver.replace(weight=total, null=None), scales


def require_mixed(solver: Solver, host: str) -> None:
    """Raise for a solver that a host which mixes the two outputs itself cannot run as it is, and for none."""
    require_solver(solver)
    if solver.null is not None:
        raise Error(f"{solver.name} has guidance of its own, and {host} applies its own: s4s.merge_guidance(solver) "
                    "gives a solver for it and a scale of every step; see docs/guidance.md")  # fmt: skip
