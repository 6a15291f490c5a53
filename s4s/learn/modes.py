"""A fit takes derivatives whatever the caller has switched off: hosts call everything under ``inference_mode``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache, wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from s4s.learn.teacher import TeacherSet
from s4s.solver import Solver

P = ParamSpec("P")
T = TypeVar("T")


def with_derivatives(function: Callable[P, T]) -> Callable[P, T]:
    """``function`` with gradients on, and with solvers and teacher sets that were made without as ordinary tensors."""

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> T:
        with torch.inference_mode(False), torch.enable_grad():
            _load_forward_mode()
            return function(*map(_ordinary, args), **{k: _ordinary(v) for k, v in options.items()})

    return run


def _ordinary(value: Any) -> Any:
    """Solvers or a teacher set whose tensors can take part in derivatives; anything else as it is."""
    if isinstance(value, Solver) and any(array.is_inference() for array in value.arrays.values()):
        return value.replace(**{key: array.clone() for key, array in value.arrays.items()})
    if isinstance(value, list | tuple):
        return [_ordinary(one) for one in value]
    if isinstance(value, TeacherSet):
        return replace(value, y=_cloned(value.y), condition=_cloned(value.condition))
    return value


def _cloned(tensor: Any) -> Any:
    return tensor.clone() if isinstance(tensor, Tensor) and tensor.is_inference() else tensor


@cache
def _load_forward_mode() -> None:
    """Have torch load its forward mode, without the warning about its own scripting that it prints while it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jacfwd(torch.sin)(torch.zeros(1))
