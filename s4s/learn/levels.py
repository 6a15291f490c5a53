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
    first = denoise if few.condition is None else denoise(few.condition)  # type: ignore[call-arg]
    if getattr(first, "any_levels", False) or _takes_rows(denoise, first, few):
        return denoise
    warnings.warn(ADAPTED, Notice, stacklevel=3)
    if few.condition is None:
        return level_by_level(lambda _: denoise)  # type: ignore[arg-type,return-value]
    return lambda condition: level_by_level(lambda rows: denoise(condition[rows]))  # type: ignore[arg-type,call-arg,return-value]


def level_by_level(under: Callable[[Tensor | slice], Denoise]) -> Denoise:
    """Denoisers of one level a call as one that takes a level for each row.

    Args:
        under: rows of a batch -> the denoiser under their conditions.
    """

    def by_rows(x: Tensor, sigma: Tensor) -> Tensor:
        if sigma.ndim == 0:
            return under(slice(None))(x, sigma)
        if sigma.requires_grad and torch.is_grad_enabled():  # each row has a gradient of its own
            return torch.cat([under(slice(i, i + 1))(x[i : i + 1], sigma[i]) for i in range(len(x))])
        out = torch.empty_like(x)
        for level in sigma.detach().unique():
            rows = (sigma == level).nonzero()[:, 0]
            out = out.index_copy(0, rows, under(rows)(x[rows], level).to(out))
        return out

    return by_rows


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
    expected = torch.cat(alone)
    if together.shape != expected.shape:
        return False
    return bool((together - expected).norm() <= SAME * expected.norm())
