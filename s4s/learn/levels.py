"""Denoisers as users write them: some take one level a call, a fit asks with a level for each row."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from s4s.errors import Error, Notice
from s4s.learn.teacher import TeacherSet
from s4s.solver import Denoise

ROWS = 3  # of the teacher's noises, each at a level of its own, that a denoiser is tried on
MOVE = 1e-3  # of the level, between the two calls of a slope
SAME = 1e-2  # relative; rows of one call and of three differ by less, rows at wrong levels by more

ADAPTED = (
    "denoise takes one level a call; the fit calls it level by level, which takes longer. "
    "One that takes sigma of shape [] or [B] is not slowed down"
)


def row_levels(
    denoise: Denoise | Callable[[Tensor], Denoise], teacher: TeacherSet
) -> Denoise | Callable[[Tensor], Denoise]:
    """``denoise``, or what calls it level by level where it takes one level only; a ``Notice`` says so.

    It is tried on three rows. Those of ``process.denoiser`` take both and are not tried. For a teacher set with
    conditions it is a function of their rows, and so is the result.

    Raises:
        Error: the denoiser fails on a single row at a single level.
    """
    few = teacher.part(0, min(ROWS, len(teacher)))
    first = under(denoise, few.condition)
    if getattr(first, "any_levels", False) or _takes_rows(denoise, first, few):
        return denoise
    warnings.warn(ADAPTED, Notice, stacklevel=3)
    if few.condition is None:
        return level_by_level(lambda _: denoise)  # type: ignore[arg-type,return-value]

    def adapted(condition: Tensor) -> Denoise:  # of one batch, or of several copies of it
        return level_by_level(lambda rows: denoise(condition[rows % len(condition)]))  # type: ignore[arg-type,call-arg,return-value]

    return adapted


def under(denoise: Any, condition: Tensor | None) -> Any:
    """The denoiser of a few rows of conditions, or that of none.

    Raises:
        Error: there are conditions, and ``denoise`` is not a function of them that gives a denoiser.
    """
    if condition is None:
        return denoise
    try:
        first = denoise(condition)
    except TypeError as error:
        first, text = None, f" ({error})"
    else:
        text = f", not a {type(first).__name__}"
    if not callable(first):
        raise Error(
            f"the teacher set has conditions, so denoise is a function of their rows that gives a denoiser{text}"
        )
    return first


def level_by_level(of_rows: Callable[[Tensor], Denoise]) -> Denoise:
    """Denoisers of one level a call as one that takes a level for each row.

    The gradient by the level of a row is a difference of two calls, so it also passes where a level becomes a number.

    Args:
        of_rows: indices of rows -> the denoiser under their conditions.
    """

    def by_rows(x: Tensor, sigma: Tensor) -> Tensor:
        every = torch.arange(len(x), device=x.device)
        if sigma.ndim == 0:
            return of_rows(every)(x, sigma)
        out, levels = torch.empty_like(x), sigma.detach()
        for level in levels.unique():
            rows = every[levels == level]
            out = out.index_copy(0, rows, _at_one_level(of_rows(rows), x[rows], level, sigma[rows]).to(out))
        return out

    return by_rows


def _at_one_level(denoise: Denoise, x: Tensor, level: Tensor, sigma: Tensor) -> Tensor:
    """The outputs at a level, with their slope by each row's own ``sigma`` [B], whose value it is."""
    D = denoise(x, level)
    if not (sigma.requires_grad and torch.is_grad_enabled()):
        return D
    with torch.no_grad():
        slope = (denoise(x, level * (1 + MOVE)) - D) / (MOVE * level).to(D)
    return D + (sigma - level).to(D).reshape(-1, *[1] * (x.ndim - 1)) * slope


def _takes_rows(denoise: Any, first: Any, few: TeacherSet) -> bool:
    """Whether rows at levels of their own come out as each does alone."""
    x, c = few.x_T, few.condition
    levels = few.sigma_max * torch.linspace(1, 0.8, len(x), dtype=torch.float64, device=x.device)
    with torch.no_grad():
        try:
            alone = [(denoise if c is None else denoise(c[i : i + 1]))(x[i : i + 1], levels[i]) for i in range(len(x))]
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            text = " ".join(str(error).split())
            raise Error(f"denoise fails on x of shape {list(x[:1].shape)} at sigma = {levels[0]:g}: {text}") from error
        try:
            together = first(x, levels)
        except (RuntimeError, ValueError, TypeError, IndexError):
            return False
    if not all(isinstance(D, Tensor) for D in [*alone, together]):
        raise Error(f"denoise returns a {type(together).__name__}, not a tensor in the shape of x")
    expected = torch.cat(alone)
    if together.shape != expected.shape:
        return False
    return bool((together - expected).norm() <= SAME * expected.norm())
